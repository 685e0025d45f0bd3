"""The keeper: a worker's parent, which outlives it just long enough to end what it started.

    python -I -S -E keeper.py WORKER [ARGUMENT...]

The keeper is the outer sub-reaper. The worker, its only child, lives in a session of its own and is the inner one: it
starts tasks by vfork and adopts what escapes from them. When the worker dies, by whatever means, everything below it
falls to the keeper, which ends it: politely, and after GRACE by force. When the keeper dies, the worker reads the end
of a pipe and ends its tasks itself.

This shape costs a task nothing: no process between the worker and its tasks, no message for a short one. The other
shape, a helper that forks each task on the worker's behalf, costs about 2 ms a task. What it could do between fork and
exec is done, for the few tasks that ask for limits, by an exec wrapper.

The keeper is the pid that people see: it passes SIGTERM, SIGINT and SIGHUP on, and exits with the worker's code.

The worker finds two descriptors in its environment, as `READ,WRITE` in PIPES_VARIABLE: one that never says anything
until its end, and one to say what has to end although the worker may be frozen. `run PID SECONDS` means to kill that
task, unless `end PID` comes within so many seconds. `containers LABEL SOCKET` means to end the containers that have
that label, through the Docker engine's socket, when the worker has ended.

Standard library only, single-threaded, and sparing with imports: it must stay small.
"""

import ctypes
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

PIPES_VARIABLE = "_JETRUNNER_KEEPER"
GRACE = 5.0
"""Seconds that orphaned tasks have between SIGTERM and SIGKILL: much less than any lease."""

_PR_SET_CHILD_SUBREAPER = 36
_POLL = 0.02
_ENGINE_PATIENCE = 2.0
"""Seconds that a Docker engine may take to answer."""
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def become_subreaper(*, on: bool = True) -> None:
    """Adopt the orphans among our descendants, or no longer do (prctl(2)).

    Raises:
        OSError: the kernel cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def children(pid: int) -> list[int]:
    """Return a process's children, zombies included; none if it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        return found
    return found


def descendants(pid: int) -> list[int]:
    """Return all that descends from a process, nearest first."""
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def send(pid: int, number: int) -> bool:
    """Signal a process; tell whether it was there to get it."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


class Keeper:
    """Watches one worker, what it says, and the signals that are meant for it."""

    def __init__(self, argv: list[str]) -> None:
        become_subreaper()
        self._said = b""
        self._deadlines: dict[int, float] = {}
        self._containers: tuple[str, str] | None = None
        self._wakeup = _signal_pipe()
        self._worker = 0
        self._early: list[int] = []
        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)
        self._pipe, self._worker = _start_worker(argv)
        for meant in self._early:  # they came before there was a worker
            send(self._worker, meant)

    def run(self) -> int:
        """Wait for the worker's end, end what it has left, and return its exit code."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while (code := self._reap()) is None:
            for descriptor, _ in poll.poll(self._patience()):
                data = _read(descriptor)
                if descriptor == self._pipe and data:
                    self._listen(data)
                elif not data:
                    poll.unregister(descriptor)
            self._enforce_deadlines()
        stopping = stop_containers(*self._containers) if self._containers else []
        end_descendants()
        if self._containers:
            remove_containers(*self._containers, stopping)
        return code

    def _forward(self, number: int, _: object) -> None:
        meant = signal.SIGTERM if number == signal.SIGHUP else number
        if self._worker:
            send(self._worker, meant)
        else:
            self._early.append(meant)

    def _reap(self) -> int | None:
        """Collect whoever has ended; return the worker's exit code if it is among them."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == self._worker:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                return None

    def _patience(self) -> float | None:
        """Return the milliseconds until the next deadline."""
        if not self._deadlines:
            return None
        return max(0.0, min(self._deadlines.values()) - time.monotonic()) * 1000

    def _listen(self, data: bytes) -> None:
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            verb, what, *more = line.split(maxsplit=2)
            match verb:
                case b"run":
                    self._deadlines[int(what)] = time.monotonic() + float(more[0])
                case b"end":
                    self._deadlines.pop(int(what), None)
                case b"containers":
                    self._containers = what.decode(), os.fsdecode(more[0])

    def _enforce_deadlines(self) -> None:
        """Kill the tasks that a worker in order would have ended; it has not reaped them, so their pids are theirs."""
        now = time.monotonic()
        for pid in [pid for pid, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[pid]
            for process in (*descendants(pid), pid):
                send(process, signal.SIGKILL)


def end_descendants() -> None:
    """End all our descendants: SIGTERM and SIGCONT, up to GRACE, then SIGKILL until none is left."""
    patience = time.monotonic() + GRACE
    for pid in descendants(os.getpid()):
        send(pid, signal.SIGTERM)
        send(pid, signal.SIGCONT)
    while _has_children():
        if time.monotonic() >= patience:
            for pid in descendants(os.getpid()):
                send(pid, signal.SIGKILL)
        time.sleep(_POLL)


def stop_containers(label: str, engine: str) -> list["socket.socket"]:
    """Ask the engine to stop the containers that have a label, with its SIGKILL after GRACE.

    Returns the connections: the engine answers on them once a container has ended.
    """
    query = f"?t={GRACE:.0f}"
    asked = (_ask(engine, "POST", f"/containers/{one}/stop{query}") for one in _list_containers(label, engine))
    return [connection for connection in asked if connection is not None]


def remove_containers(label: str, engine: str, stopping: list["socket.socket"]) -> None:
    """Remove the containers that have a label, once they have been stopped; what hangs is left to other workers."""
    patience = time.monotonic() + GRACE + _ENGINE_PATIENCE
    for connection in stopping:
        _answer(connection, max(0.01, patience - time.monotonic()))
    for one in _list_containers(label, engine):
        removing = _ask(engine, "DELETE", f"/containers/{one}?force=1&v=1")
        if removing is not None:
            _answer(removing, _ENGINE_PATIENCE)


def _list_containers(label: str, engine: str) -> list[str]:
    import json  # noqa: PLC0415 - only the few keepers that need it, and only when their worker has ended
    from urllib.parse import quote  # noqa: PLC0415 - as json

    filters = quote(json.dumps({"label": [label]}))
    listing = _ask(engine, "GET", f"/containers/json?all=1&filters={filters}")
    answer = _answer(listing, _ENGINE_PATIENCE) if listing is not None else b""
    try:
        return [container["Id"] for container in json.loads(answer)]
    except (ValueError, TypeError, KeyError):
        return []


def _ask(engine: str, verb: str, path: str) -> "socket.socket | None":
    """Send a request; HTTP/1.0, so that the answer ends with the connection."""
    import socket  # noqa: PLC0415 - as json

    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ENGINE_PATIENCE)
    try:
        connection.connect(engine)
        connection.sendall(f"{verb} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode())
    except OSError:
        connection.close()
        return None
    return connection


def _answer(connection: "socket.socket", patience: float) -> bytes:
    """Return the body of an answer, empty if there is none in time."""
    answer = b""
    try:
        connection.settimeout(patience)
        while piece := connection.recv(65536):
            answer += piece
    except OSError:
        return b""
    finally:
        connection.close()
    return answer.partition(b"\r\n\r\n")[2]


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


def _start_worker(argv: list[str]) -> tuple[int, int]:
    """Start the worker in its own session; return our end of its pipe, and its pid."""
    alive, _never_written = os.pipe()
    said, saying = os.pipe()
    os.set_inheritable(alive, True)  # noqa: FBT003 - it takes no keyword
    os.set_inheritable(saying, True)  # noqa: FBT003 - it takes no keyword
    environment = {**os.environ, PIPES_VARIABLE: f"{alive},{saying}"}
    worker = os.posix_spawn(argv[0], argv, environment, setsid=True)
    os.close(alive)
    os.close(saying)
    return said, worker


def _signal_pipe() -> int:
    """Return a descriptor that can be read when a signal has come, a child's end included."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b" "


if __name__ == "__main__":
    sys.exit(Keeper(sys.argv[1:]).run())
