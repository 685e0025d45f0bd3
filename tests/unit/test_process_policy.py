"""What processes may be, by the worker's profile."""

import os
from pathlib import Path
from typing import Literal

import pytest

from runners.context import Policy
from runners.errors import PolicyDeniedError
from runners.policy import check_executable, check_variables

Profile = Literal["open", "standard", "strict"]


@pytest.mark.parametrize(
    ("name", "first_refused_by"),
    [
        ("PATH", None),
        ("LDAP_URL", None),
        ("LD_PRELOAD", "standard"),
        ("LD_LIBRARY_PATH", "standard"),
        ("DYLD_INSERT_LIBRARIES", "standard"),
        ("GCONV_PATH", "standard"),
        ("PYTHONPATH", "strict"),
        ("PERL5OPT", "strict"),
        ("BASH_ENV", "strict"),
        ("ENV", "strict"),
        ("GIT_SSH_COMMAND", "strict"),
        ("ENVIRONMENT", None),
    ],
)
def test_variables(name: str, first_refused_by: Profile | None) -> None:
    """Each profile refuses what the one before it does, and more; the refusal names the variable and the rule."""
    profiles: tuple[Profile, ...] = ("open", "standard", "strict")
    first = profiles.index(first_refused_by) if first_refused_by else len(profiles)
    for profile in profiles[:first]:
        check_variables(["A", name], Policy(profile=profile))
    for profile in profiles[first:]:
        with pytest.raises(PolicyDeniedError) as refused:
            check_variables(["A", name], Policy(profile=profile))
        assert str(refused.value) == f"the profile `{profile}` allows no variable `{name}` (rule process.env)"


def test_executables(tmp_path: Path) -> None:
    """What `allow` names may run, by whatever name it is called; in `strict`, nothing else."""
    tool, link = tmp_path / "tool", tmp_path / "link"
    tool.touch(mode=0o755)
    link.symlink_to(tool)
    env = {"PATH": str(tmp_path)}
    for command in ("tool", "link", str(link)):
        check_executable(command, env, Policy(profile="strict", allow=(str(tool),)))
    others = ("/bin/true",)
    for policy in (Policy(profile="strict"), Policy(allow=others), Policy(profile="open", allow=others)):
        with pytest.raises(PolicyDeniedError) as refused:
            check_executable("tool", env, policy)
        expected = f"{os.path.realpath(tool)!r} is not in the category's `allow` (rule process.executable)"
        assert str(refused.value) == expected
    check_executable("tool", env, Policy())
