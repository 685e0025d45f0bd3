"""Says which of the task's own faults, or the machine's, kept a process from starting: each errno has its class."""

import errno
import os
import shutil
from pathlib import Path

from runners.errors import (
    ArgumentTooLongError,
    BadCwdError,
    CommandNotFoundError,
    ExecFormatError,
    InterpreterNotFoundError,
    InvalidTaskError,
    NotExecutableError,
    RunnerError,
    SpawnFailedError,
)

from .spec import ProcessSpec


def explain(error: OSError, spec: ProcessSpec) -> RunnerError:
    """Return the error for what exec, or the way to it, has said."""
    command = spec.argv[0]
    if spec.cwd is not None and error.filename == spec.cwd and command != spec.cwd:
        return BadCwdError(f"the working directory {spec.cwd!r} cannot be entered: {error.strerror}")
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP:
            return _explain_missing(command, spec)
        case errno.EACCES | errno.EPERM | errno.EISDIR | errno.ETXTBSY:
            return NotExecutableError(f"the command {command!r} cannot be executed: {error.strerror}")
        case errno.ENOEXEC:
            return ExecFormatError(
                f"the command {command!r} is no program for this machine, nor a script with a #! line"
            )
        case errno.E2BIG:
            return ArgumentTooLongError(f"the arguments and environment of {command!r} are too long: {error.strerror}")
    return SpawnFailedError(f"no process could be started: {error.strerror}")


def _explain_missing(command: str, spec: ProcessSpec) -> RunnerError:
    """Tell a missing command from one whose interpreter is missing: for both, exec says ENOENT."""
    path = spec.env.get("PATH", os.defpath)
    found = Path(spec.cwd or ".", command) if "/" in command else Path(shutil.which(command, path=path) or "/")
    if _is_file(found):
        return InterpreterNotFoundError(f"the command {str(found)!r} is there, but the interpreter it names is not")
    where = "" if "/" in command else f" on the PATH {path}"
    return CommandNotFoundError(f"the command {command!r} was not found{where}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def unpassable(error: ValueError) -> InvalidTaskError:
    """Return the error for what argv, cwd or environment cannot hold, such as a lone surrogate."""
    return InvalidTaskError(f"the command cannot be passed to a process: {error}")
