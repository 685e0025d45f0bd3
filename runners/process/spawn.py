"""Starts one process: directly, by vfork, in a session of its own, with its own pipes.

The seam under the runners is narrow: a `ProcessSpec` goes in, a `Process` or a RunnerError comes out. Only a process
with a `Confinement` starts as a wrapper (confine.py) that becomes the command: some 10 ms later it says so, or why not.
"""

import errno
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from runners.errors import SpawnFailedError

from . import vfork
from .descriptors import Descriptors
from .faults import explain, unpassable
from .leader import Process
from .spec import Confinement, ProcessSpec
from .wrapper import Start, environment_block, wrapper_argv, wrapper_environment

OOM_SCORE_ADJUSTMENT: Final = b"500"
"""Half of all memory more than it has, in the kernel's eyes (proc(5))."""


class _Launch(Struct, frozen=True):
    """What is executed first: the command, or the wrapper that becomes it, and the descriptors this one needs."""

    argv: Sequence[str]
    env: Mapping[str, str]
    descriptors: Sequence[int] = ()


def spawn(spec: ProcessSpec, confinement: Confinement | None = None) -> Process:
    """Start a process; blocks for about 0.6 ms, whatever the worker's size.

    Raises:
        RunnerError: it could not be started; each errno has its class.
    """
    with Descriptors() as opened:
        try:
            (stdout, its_stdout), (stderr, its_stderr) = opened.pipe(), opened.pipe()
            stdin = opened.file(spec.stdin) if spec.stdin else _nothing()
            launch, start = _Launch(spec.argv, spec.env), None
            if confinement is not None:
                launch, start = _confined(spec, confinement, opened)
        except OSError as error:
            raise SpawnFailedError(f"no pipe or file could be made for the process: {error.strerror}") from None
        pid = _start(spec, launch, (stdin, its_stdout, its_stderr))
    _offer_first(pid)
    return Process(pid, stdout, stderr, start)


@functools.cache
def _nothing() -> int:
    """Return what has nothing to read: one open file serves all processes."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _confined(spec: ProcessSpec, confinement: Confinement, opened: Descriptors) -> tuple[_Launch, Start]:
    listening, errors = opened.pipe()
    environment = opened.memory(environment_block(spec))
    argv = wrapper_argv(spec, confinement, errors, environment)
    return _Launch(argv, wrapper_environment(), (errors, environment)), Start(listening, spec)


def _start(spec: ProcessSpec, launch: _Launch, stdio: tuple[int, int, int]) -> int:
    inherited = (*launch.descriptors, *spec.inherited)
    try:
        return vfork.start(launch.argv, launch.env, cwd=spec.cwd, stdio=stdio, inherited=inherited)
    except OSError as error:
        if launch.descriptors and error.filename == sys.executable and error.errno != errno.E2BIG:
            raise SpawnFailedError(f"the wrapper of the process could not be started: {error.strerror}") from None
        raise explain(error, spec) from None
    except ValueError as error:
        raise unpassable(error) from None


def _offer_first(pid: int) -> None:
    """Let the kernel, when memory runs out, take the task before its worker; its children follow it."""
    with suppress(OSError):  # it has ended already, or there is no procfs
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, OOM_SCORE_ADJUSTMENT)
        finally:
            os.close(descriptor)
