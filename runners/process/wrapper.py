"""The worker's side of the wrapper that confines a process from within and becomes its command (confine.py)."""

import os
import sys
from pathlib import Path
from typing import Final

from runners.errors import RunnerError, SpawnFailedError

from .faults import explain, unpassable
from .spec import Confinement, ProcessSpec


class Start:
    """What a wrapper says, through a pipe of its own, before it becomes the command of a process."""

    def __init__(self, descriptor: int, spec: ProcessSpec) -> None:
        self.descriptor = descriptor
        self._spec = spec
        self._said = b""

    def decided(self) -> bool:
        """Take what is there; tell whether the command runs or cannot run any more."""
        try:
            while chunk := os.read(self.descriptor, _ENOUGH):
                self._said += chunk
        except BlockingIOError:
            return False
        return True

    def failure(self) -> RunnerError | None:
        """Return why the command does not run, once that is decided; None if it does."""
        if self._said == _BECOMES:
            return None
        number, _, stage = self._said.removeprefix(_BECOMES).decode().partition(" ")
        if stage == "exec":
            return explain(OSError(int(number), os.strerror(int(number))), self._spec)
        why = f": {stage}: {os.strerror(int(number))}" if stage else ""
        return SpawnFailedError(f"the process could not be confined{why}")

    def close(self) -> None:
        """Listen no more."""
        os.close(self.descriptor)


def wrapper_argv(spec: ProcessSpec, confinement: Confinement, errors: int, environment: int) -> list[str]:
    """Return the wrapper's command line; it inherits the two descriptors, and closes them."""
    rlimits = {"CORE": (0, 0), **confinement.rlimits}
    return [
        *_WRAPPER,
        str(errors),
        str(environment),
        "-" if confinement.cgroup is None else str(confinement.cgroup),
        ",".join(f"{name}={soft}:{hard}" for name, (soft, hard) in rlimits.items()),
        "--",
        *spec.argv,
    ]


def wrapper_environment() -> dict[str, str]:
    """Return the worker's own variables without which its interpreter may not start."""
    return {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}


def environment_block(spec: ProcessSpec) -> bytes:
    """Return the command's environment as the wrapper reads it, from a file: some of it may be secret."""
    try:
        return b"\0".join(os.fsencode(f"{name}={value}") for name, value in spec.env.items())
    except ValueError as error:
        raise unpassable(error) from None


_BECOMES: Final = b"+"
"""What the wrapper says just before it executes the command."""
_ENOUGH: Final = 1024
_WRAPPER: Final = (
    *(sys.executable, "-I", "-S", "-E", "-X", "utf8"),
    str(Path(__file__).with_name("confine.py")),
)
_LOADER_VARIABLES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
