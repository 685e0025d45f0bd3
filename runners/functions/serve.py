"""Inside a process of a pool: imports the function once, and then calls it for one task after the other.

What the function prints goes to one pipe, stdout and stderr alike; what it reports goes over the socket. The process
adopts whatever escapes from the function, so that nothing of a task is left when its end is told.
"""

import contextlib
import ctypes
import functools
import math
import operator
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FrameType
from typing import Any, Final, Literal, NoReturn

import msgspec

from runners.declaration import declaration_of
from runners.process.keeper import become_subreaper, descendants, send
from schemas import decode

from .context import TaskContext, TaskStopped
from .factory import Function, FunctionFactory
from .messages import LONGEST, PIECE, Call, Done, Output, Progress, Ready, Unable, Unframer, Used, decode_call, frame
from .outcome import as_json, exception_text, traceback_text

ORPHANED_GRACE: Final = 5
"""Seconds that a function has to end in once its worker is gone."""
_END_WINDOW: Final = 10.0
_ENOUGH: Final = 256
_PAUSE: Final = 0.001
_PR_SET_PDEATHSIG: Final = 1
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
_PAGE: Final = resource.getpagesize()


def serve(link: socket.socket, module: str, name: str) -> None:
    """Serve the function of that name until the socket is closed, or a task was stopped."""
    parent = os.getppid()
    _follow_parent()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # both are of the usual kind
    try:
        function = _find(module, name)
    except Exception as error:  # noqa: BLE001 - whatever the plug-in does when it is imported
        sys.stderr.write(traceback_text(error))
        link.sendall(frame(Unable(exception_text(error))))
        return
    server = _Server(link, function, parent)
    server.run()


def _find(module: str, name: str) -> Function:
    declaration = declaration_of(operator.attrgetter(name)(import_module(module)))
    if declaration is None or not isinstance(declaration.factory, FunctionFactory):
        raise TypeError(f"{module}.{name} is not the function that was decorated with @runner")
    return declaration.factory.function


def _follow_parent() -> None:
    """Adopt what escapes from the function, and get SIGTERM when the worker dies, where the kernel can do both."""
    if sys.platform == "linux":
        become_subreaper()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class _Server:
    """The function, the socket, and what the task at work has come to."""

    def __init__(self, link: socket.socket, function: Function, parent: int) -> None:
        self._link = link
        self._function = function
        self._parent = parent
        self._stage: Literal["idle", "calling", "telling"] = "idle"
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        """Take one call after the other."""
        unframer = Unframer()
        self._say(Ready(_used()))
        while data := self._link.recv(256 * 1024):
            for payload in unframer.feed(data):
                self._serve_call(decode_call(payload))

    def _serve_call(self, call: Call) -> None:
        self._stage = "telling"
        self._mark(call)
        reports = _Reports(self._link, lambda: self.stopping)
        try:
            with _limited(call.rlimits):
                error = self._call(call, reports)
        except TaskStopped:
            self._end()
        reports.close()
        _flush()
        leaked = _end_children()
        self._say(Done(error, _used(), _resident(), leaked))
        self._stage = "idle"
        if self.stopping:
            os._exit(0 if error is None else 1)

    def _call(self, call: Call, reports: "_Reports") -> str | None:
        """Call the function and say what it has returned; return what it has raised, if it has."""
        signature = self._function.signature
        try:
            params = decode(signature.params_type, call.params)
            arguments = signature.arguments(params, lambda: TaskContext(call.facts, reports))
            reports.output(as_json(self._call_function(arguments)))
        except TaskStopped as stopped:
            self._stage = "telling"
            sys.stderr.write(traceback_text(stopped))
            raise
        except BaseException as error:  # noqa: BLE001 - also SystemExit and KeyboardInterrupt: they are the function's
            self._stage = "telling"
            sys.stderr.write(traceback_text(error))
            return exception_text(error)
        return None

    def _call_function(self, arguments: dict[str, Any]) -> Any:
        self._stage = "calling"
        if self.stopping and self._function.on_stop == "raise":
            raise TaskStopped
        value = self._function.function(**arguments)
        self._stage = "telling"
        return value

    def _say(self, message: msgspec.Struct) -> None:
        self._link.sendall(frame(message))

    def _mark(self, call: Call) -> None:
        """Let what the function starts bear the marks of its task, as every process of a task does."""
        os.environ["TASK_ID"] = call.facts.id
        os.environ["TASK_ATTEMPT"] = str(call.facts.attempt)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopping:
            return
        self.stopping = True
        if os.getppid() != self._parent:
            signal.alarm(ORPHANED_GRACE)
        if self._stage == "idle":
            self._end()
        if self._stage == "calling" and self._function.on_stop == "raise":
            raise TaskStopped

    def _end(self) -> NoReturn:
        """End as SIGTERM would have ended us, with nothing left."""
        _flush()
        _end_children()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(128 + signal.SIGTERM)


class _Reports:
    """The channel of one call; what a thread of the function still has to tell after it is told to nobody."""

    def __init__(self, link: socket.socket, is_stopping: Callable[[], bool]) -> None:
        self._link = link
        self._is_stopping = is_stopping
        self._sending = threading.Lock()
        self._closed = False

    @property
    def stopping(self) -> bool:
        return self._is_stopping()

    def progress(self, data: dict[str, Any]) -> None:
        message = frame(Progress(msgspec.to_builtins(data)))
        if len(message) > LONGEST:
            raise ValueError(f"a step of progress has {len(message)} bytes: more than {LONGEST}")
        self._send(message)

    def output(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self._send(frame(Output(data[start : start + PIECE])))

    def log(self, data: bytes) -> None:
        """Take what is for people; it keeps its place among what is printed."""
        _flush()
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()

    def close(self) -> None:
        with self._sending:
            self._closed = True

    def _send(self, data: bytes) -> None:
        with self._sending:
            if self._closed:
                raise RuntimeError("the task has ended")
            self._link.sendall(data)


@contextlib.contextmanager
def _limited(limits: dict[str, int]) -> Iterator[None]:
    """Lower our soft limits for one call; those of CPU time count from now."""
    before = {}
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, hard = before[number] = resource.getrlimit(number)
        wanted = value + math.ceil(time.process_time()) if name == "CPU" else value
        resource.setrlimit(number, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    finally:
        for number, pair in before.items():
            resource.setrlimit(number, pair)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the function has closed it
            stream.flush()


def _end_children() -> int:
    """Kill what the function has left, until nothing is; return how many processes that were."""
    killed: set[int] = set()
    deadline = time.monotonic() + _END_WINDOW
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            break
        killed.update(pid for pid in descendants(os.getpid()) if send(pid, signal.SIGKILL))
        time.sleep(_PAUSE)
    return len(killed)


def _used() -> Used:
    own, reaped = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return Used(
        cpu_user=own.ru_utime + reaped.ru_utime,
        cpu_system=own.ru_stime + reaped.ru_stime,
        peak=max(own.ru_maxrss, reaped.ru_maxrss) * _RSS_UNIT,
    )


def _resident() -> int:
    """Return the bytes that we hold; the most that we ever held where the kernel does not tell."""
    descriptor = _statm()
    if descriptor is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    return int(os.pread(descriptor, _ENOUGH, 0).split()[1]) * _PAGE


@functools.cache
def _statm() -> int | None:
    """Open what is read again after each task (proc(5))."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
