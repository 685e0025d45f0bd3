"""What processes may be: their variables and executables, by the worker's profile. Each refusal names its rule.

| rule | open | standard | strict |
|---|---|---|---|
| process.env | any | none that changes how programs are loaded | nor what interpreters load |
| process.executable | any, or what `allow` names | the same | what `allow` names |
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from .context import Policy
from .errors import PolicyDeniedError

LOADER_VARIABLES: Final = ("LD_*", "DYLD_*", "GCONV_PATH")
"""Variables that decide which code a program loads, whatever program it is (ld.so(8), iconv(1))."""
INTERPRETER_VARIABLES: Final = (
    *("PYTHON*", "PERL5*", "RUBYOPT", "NODE_OPTIONS", "BASH_ENV", "ENV", "IFS", "GIT_*"),
    "PROMPT_COMMAND",
)
"""Variables that decide which code an interpreter loads."""


def check_variables(names: Iterable[str], policy: Policy) -> None:
    """Let a task's variables pass, or not.

    Raises:
        PolicyDeniedError: the profile forbids one.
    """
    if policy.profile == "open":
        return
    forbidden = (*LOADER_VARIABLES, *(INTERPRETER_VARIABLES if policy.profile == "strict" else ()))
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in forbidden):
            raise PolicyDeniedError(f"the profile `{policy.profile}` allows no variable `{name}` (rule process.env)")


def check_executable(command: str, env: Mapping[str, str], policy: Policy) -> None:
    """Let an executable pass, or not; one that is not there is found missing when it is started. Blocks.

    Raises:
        PolicyDeniedError: the policy does not name it.
    """
    if not policy.allow and policy.profile != "strict":
        return
    found = shutil.which(command, path=env.get("PATH"))
    resolved = os.path.realpath(found or command)
    if resolved not in {os.path.realpath(allowed) for allowed in policy.allow}:
        raise PolicyDeniedError(f"{resolved!r} is not in the category's `allow` (rule process.executable)")
