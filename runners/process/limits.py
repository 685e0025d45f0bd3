"""What a task may use: how each limit is enforced on this host, and the enforcement that is our own.

| limit | best | else |
|---|---|---|
| memory | cgroup2: the whole task, swap included | poll: RLIMIT_DATA for each process, resident memory twice a second |
| cpu_seconds | rlimit, for each process | |
| nofile | rlimit, for each process | |
| pids | cgroup2 | rlimit, unless we are root: it counts all processes of a user, and none of root's |
| cpus | cgroup2 | none |
| output | worker | |
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from runners.context import Context
from runners.errors import LimitUnsupportedError, PolicyDeniedError
from schemas import AppliedLimit, Limits

from .cgroup import division
from .keeper import descendants
from .orphans import ORPHANS

POLL_INTERVAL: Final = 0.5
"""Seconds between two looks at a task's resident memory."""
_PERIOD: Final = 100_000
"""Microseconds over which `cpus` is kept (cpu.max)."""
_LEAST_QUOTA: Final = 1_000
_CONTROLLERS: Final = {"memory": "memory", "pids": "pids", "cpus": "cpu"}
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Facilities(Struct, frozen=True, kw_only=True):
    """What this host has to enforce limits with. `processes`: how many, threads counted, our user has already."""

    controllers: frozenset[str] = frozenset()
    root: bool = False
    linux: bool = True
    processes: int = 0


class Plan(Struct, frozen=True, kw_only=True):
    """How a task's limits are enforced: by which rlimits (soft, hard), files of its cgroup, and bytes to poll for."""

    applied: Mapping[str, AppliedLimit] = {}
    rlimits: Mapping[str, tuple[int, int]] = {}
    cgroup: Mapping[str, str] = {}
    resident: int | None = None


_NO_LIMITS: Final = Limits()
_NO_PLAN: Final = Plan()


class _Means(Struct, frozen=True, kw_only=True):
    """How one limit is enforced."""

    by: Literal["cgroup2", "rlimit", "poll", "worker", "none"]
    rlimits: Mapping[str, tuple[int, int]] = {}
    cgroup: Mapping[str, str] = {}
    resident: int | None = None


def plan(context: Context) -> Plan:
    """Return how a task's limits are enforced here.

    Raises:
        PolicyDeniedError: it asks for more than its category may have.
        LimitUnsupportedError: it requires a limit that cannot be enforced here.
    """
    if context.task.limits == context.resource_limits == _NO_LIMITS:
        return _NO_PLAN
    limits = merge(context)
    return decide(limits, context.task.limits_policy, facilities(limits))


def plan_call(context: Context) -> Plan:
    """Return the same for one call within a process that outlives it: no cgroup is the call's alone.

    Raises:
        PolicyDeniedError: as `plan`.
        LimitUnsupportedError: as `plan`.
    """
    if context.task.limits == context.resource_limits == _NO_LIMITS:
        return _NO_PLAN
    limits = merge(context)
    return decide(limits, context.task.limits_policy, facilities(limits, cgroups=False))


def unenforced(context: Context, what: str) -> dict[str, AppliedLimit]:
    """Return the limits of what runs within the worker itself: nothing but its output can be limited.

    Raises:
        PolicyDeniedError: as `plan`.
        LimitUnsupportedError: as `plan`.
    """
    if context.task.limits == context.resource_limits == _NO_LIMITS:
        return {}
    limits = requested(merge(context))
    missing = [f"`limits.{name}`" for name in limits if name != "output"]
    if missing and context.task.limits_policy == "require":
        raise LimitUnsupportedError(f"{' and '.join(missing)} cannot be enforced on {what}")
    return {
        name: AppliedLimit(requested=value, enforced_by="worker" if name == "output" else "none")
        for name, value in limits.items()
    }


def merge(context: Context) -> Limits:
    """Return the task's limits, and its category's where it has none.

    Raises:
        PolicyDeniedError: a limit of the task is above its category's.
    """
    asked, most = context.task.limits, context.resource_limits
    merged = {}
    for name in Limits.__struct_fields__:
        value, ceiling = getattr(asked, name), getattr(most, name)
        if value is not None and ceiling is not None and value > ceiling:
            key = f"runners.{context.task.category}.resource_limits.{name}"
            raise PolicyDeniedError(f"`limits.{name}` is {value}; {key} allows {ceiling}")
        merged[name] = ceiling if value is None else value
    return Limits(**merged)


def decide(limits: Limits, policy: Literal["best_effort", "require"], host: Facilities) -> Plan:
    """Return how limits are enforced with a host's facilities.

    Raises:
        LimitUnsupportedError: the policy requires a limit that they cannot enforce.
    """
    means = {name: _means(name, value, host) for name, value in requested(limits).items()}
    missing = [f"`limits.{name}`" for name, one in means.items() if one.by == "none"]
    if missing and policy == "require":
        raise LimitUnsupportedError(f"{' and '.join(missing)} cannot be enforced on this worker")
    return Plan(
        applied={
            name: AppliedLimit(requested=value, enforced_by=means[name].by) for name, value in requested(limits).items()
        },
        rlimits={name: values for one in means.values() for name, values in one.rlimits.items()},
        cgroup={name: value for one in means.values() for name, value in one.cgroup.items()},
        resident=next((one.resident for one in means.values() if one.resident is not None), None),
    )


def facilities(limits: Limits, *, cgroups: bool = True) -> Facilities:
    """Return what this host has, as far as some limits may need it: our cgroup is divided only for those that do."""
    wanted = cgroups and {_CONTROLLERS[name] for name in requested(limits) if name in _CONTROLLERS}
    divided = division() if wanted else None
    controllers = divided.controllers if divided is not None else frozenset()
    root = os.geteuid() == 0
    counted = limits.pids is not None and not root and "pids" not in controllers
    return Facilities(
        controllers=controllers,
        root=root,
        linux=sys.platform == "linux",
        processes=_count_own() if counted else 0,
    )


def requested(limits: Limits) -> dict[str, int | float]:
    """Return the limits that are given, as plain numbers by name."""
    given = {name: getattr(limits, name) for name in Limits.__struct_fields__}
    return {
        name: value if isinstance(value, float) else int(value) for name, value in given.items() if value is not None
    }


def _means(name: str, value: float, host: Facilities) -> _Means:
    number = int(value)
    if _CONTROLLERS.get(name) in host.controllers:
        return _Means(by="cgroup2", cgroup=_files(name, value))
    match name:
        case "memory" if host.linux:
            return _Means(by="poll", rlimits={"DATA": (number, number)}, resident=number)
        case "cpu_seconds":  # SIGXCPU at n; a hard limit of n would kill at once, and hide the cause
            return _rlimit("CPU", number, number + 1)
        case "nofile":
            return _rlimit("NOFILE", number)
        case "pids" if not host.root:
            return _rlimit("NPROC", number + host.processes)
    return _Means(by="worker" if name == "output" else "none")


def _rlimit(name: str, soft: int, hard: int | None = None) -> _Means:
    return _Means(by="rlimit", rlimits={name: (soft, soft if hard is None else hard)})


def _files(name: str, value: float) -> dict[str, str]:
    """Return the files of a cgroup that hold a limit, and their contents."""
    match name:
        case "memory":
            return {"memory.max": f"{value}", "memory.swap.max": "0", "memory.oom.group": "1"}
        case "pids":
            return {"pids.max": f"{value}"}
    return {"cpu.max": f"{max(_LEAST_QUOTA, round(value * _PERIOD))} {_PERIOD}"}


def _count_own() -> int:
    """Count the threads that our user has, as RLIMIT_NPROC does (proc_pid_stat(5), field 20)."""
    uid, count = os.getuid(), 0
    with suppress(OSError):  # there is no procfs
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == uid:
                    count += int((entry / "stat").read_bytes().rpartition(b")")[2].split()[17])
    return count


class MemoryPoll:
    """Looks twice a second at how much memory a task's processes hold, and tells once if it is too much."""

    def __init__(self, leader: int, limit: int, exceeded: Callable[[], None]) -> None:
        self._leader = leader
        self._limit = limit
        self._exceeded = exceeded
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(POLL_INTERVAL, self._look)

    def close(self) -> None:
        """Look no more; safe to call twice."""
        self._timer.cancel()

    def _look(self) -> None:
        if is_over(members(self._leader), self._limit):
            self._exceeded()
        else:
            self._timer = self._loop.call_later(POLL_INTERVAL, self._look)


def members(leader: int) -> list[int]:
    """Return a task's processes: its leader, those that descend from it, and those that have escaped to us."""
    return list(dict.fromkeys((leader, *descendants(leader), *ORPHANS.of(leader))))


def is_over(pids: Iterable[int], limit: int) -> bool:
    """Tell whether processes hold more than so many bytes between them.

    The cheap sum counts shared pages once for each process, and those of mapped files, which the kernel can take back
    at any time; only where it is over the limit are the pages counted that are truly the processes' own.
    """
    pids = list(pids)
    return sum(map(_resident, pids)) > limit and sum(map(_proportional, pids)) > limit


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    """Return the bytes of anonymous and shared memory that a process holds, its part of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
    except OSError:  # it is gone, or not ours to look into: a set-user-id program
        return _resident(pid)
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(b":") for line in lines[1:])}
    return 1024 * sum(sizes.get(name, 0) for name in (b"Pss_Anon", b"Pss_Shmem"))
