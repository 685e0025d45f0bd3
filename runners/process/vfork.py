"""Starts a program by vfork and exec: by the built-in that subprocess.Popen stands on, without Popen's own 0.1 ms.

The child gets all that Popen gives it with `start_new_session`, `close_fds` and `restore_signals`; its errors come back
the same way, over a pipe that a successful exec closes.
"""

import _posixsubprocess
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

fork_exec: Callable[..., int] = _posixsubprocess.fork_exec  # its stub does not know that most may be None

_NONE: Final = -1
_FIRST_FREE: Final = 3
"""The descriptors below are the child's standard ones."""
_CLOSE_OTHERS, _RESTORE_SIGNALS, _NEW_SESSION = True, True, True
_AS_WE_ARE: Final = (
    *(_RESTORE_SIGNALS, _NEW_SESSION, _NONE),
    *(None, None, None, _NONE),  # group, groups, user and umask
    None,  # nothing to call between fork and exec
    *((True,) if sys.version_info < (3, 14) else ()),  # vfork is allowed; from 3.14 on it is not asked
)
_ENOUGH: Final = 1024


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str | None = None,
    stdio: tuple[int, int, int],
    inherited: Iterable[int] = (),
) -> int:
    """Start a program in a session of its own and return its pid; of our descriptors it gets those that are named.

    Raises:
        OSError: there is no process. `filename` is `cwd` if that could not be entered.
        ValueError: argv, env or cwd cannot be passed.
    """
    listening, errors = _error_pipe()
    try:
        try:
            descriptors = (stdio[0], _NONE, _NONE, stdio[1], _NONE, stdio[2], listening, errors)
            passed = tuple(sorted({*inherited, errors}))
            program = (argv, _candidates(argv[0], env), _CLOSE_OTHERS, passed, cwd, _block(env))
            pid = fork_exec(*program, *descriptors, *_AS_WE_ARE)
        finally:
            os.close(errors)
        said = _read(listening)
    finally:
        os.close(listening)
    if said:
        with suppress(ChildProcessError):  # SIGCHLD is ignored: it leaves no zombie
            os.waitpid(pid, 0)
        raise _failure(said, argv[0], cwd)
    return pid


def _read(descriptor: int) -> bytes:
    said = b""
    while chunk := os.read(descriptor, _ENOUGH):
        said += chunk
    return said


def _error_pipe() -> tuple[int, int]:
    """Return a pipe whose writing end is not in the way of the child's standard descriptors."""
    reading, writing = os.pipe()
    low = []
    while writing < _FIRST_FREE:
        low.append(writing)
        writing = os.dup(writing)
    for descriptor in low:
        os.close(descriptor)
    return reading, writing


def _candidates(command: str, env: Mapping[str, str]) -> Sequence[bytes]:
    """Return the paths to try, in their order: those of the PATH that the program will have."""
    name = os.fsencode(command)
    if b"/" in name:
        return (name,)
    return tuple(os.fsencode(f"{folder}/{command}" if folder else command) for folder in os.get_exec_path(env))


def _block(env: Mapping[str, str]) -> list[bytes]:
    for name in env:
        if "=" in name:
            raise ValueError("illegal environment variable name")
    return [os.fsencode(f"{name}={value}") for name, value in env.items()]


def _failure(said: bytes, command: str, cwd: str | None) -> OSError:
    """Return what the child has said, such as "OSError:2:noexec": a number in hex, and that it did not come to exec."""
    _, number, stage = said.decode().split(":", 2)
    error = int(number, 16)
    return OSError(error, os.strerror(error), cwd if stage.startswith("noexec") else command)
