"""Tests of runners.process.limits and cgroup: who enforces which limit, and what is written into a cgroup's files.

The cgroups are a tree of ordinary files that behaves as the kernel's does where it matters.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from runners.context import Context
from runners.errors import LimitUnsupportedError, PolicyDeniedError
from runners.process.cgroup import Cgroup, Division, own_group
from runners.process.limits import Facilities, Plan, decide, facilities, is_over, merge, plan
from schemas import AppliedLimit, Limits, Size, Task

MIB = 2**20
ALL = Limits(memory=Size(64 * MIB), cpu_seconds=5, nofile=64, pids=10, cpus=1.5, output=Size(1000))
CGROUPS = Facilities(controllers=frozenset({"memory", "pids", "cpu"}), root=True)
ROOT = Facilities(root=True)
USER = Facilities(processes=300)
MACOS = Facilities(linux=False)


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


# Who enforces what


@pytest.mark.parametrize(
    ("host", "enforced_by"),
    [
        pytest.param(CGROUPS, ["cgroup2", "rlimit", "rlimit", "cgroup2", "cgroup2", "worker"], id="cgroups"),
        pytest.param(ROOT, ["poll", "rlimit", "rlimit", "none", "none", "worker"], id="root"),
        pytest.param(USER, ["poll", "rlimit", "rlimit", "rlimit", "none", "worker"], id="user"),
        pytest.param(MACOS, ["none", "rlimit", "rlimit", "rlimit", "none", "worker"], id="macOS"),
        pytest.param(
            Facilities(controllers=frozenset({"pids"}), root=True),
            ["poll", "rlimit", "rlimit", "cgroup2", "none", "worker"],
            id="pids only",
        ),
    ],
)
def test_each_limit_is_enforced_by_the_best_there_is(host: Facilities, enforced_by: list[str]) -> None:
    """The Result tells for each limit what was asked for, and by what it is enforced: never more than is true."""
    applied = decide(ALL, "best_effort", host).applied
    asked = {"memory": 64 * MIB, "cpu_seconds": 5, "nofile": 64, "pids": 10, "cpus": 1.5, "output": 1000}
    assert {name: one.requested for name, one in applied.items()} == asked
    assert [applied[name].enforced_by for name in asked] == enforced_by


def test_a_cgroup_takes_what_it_can() -> None:
    """With all controllers only the limits of single processes are left to rlimits."""
    chosen = decide(ALL, "require", CGROUPS)
    assert chosen.rlimits == {"CPU": (5, 6), "NOFILE": (64, 64)}
    assert chosen.cgroup == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "10",
        "cpu.max": "150000 100000",
    }
    assert chosen.resident is None


def test_without_a_cgroup() -> None:
    """A user's rlimits leave room for the processes that the user has already; memory is polled for besides."""
    chosen = decide(ALL, "best_effort", USER)
    assert chosen.rlimits == {
        "DATA": (64 * MIB, 64 * MIB),
        "CPU": (5, 6),
        "NOFILE": (64, 64),
        "NPROC": (310, 310),
    }
    assert (chosen.cgroup, chosen.resident) == ({}, 64 * MIB)


def test_a_sliver_of_a_cpu() -> None:
    """The kernel's least quota is a millisecond in each period."""
    assert decide(Limits(cpus=0.0001), "require", CGROUPS).cgroup == {"cpu.max": "1000 100000"}


@pytest.mark.parametrize(
    ("limits", "host", "names"),
    [
        (ALL, ROOT, "`limits.pids` and `limits.cpus`"),
        (Limits(cpus=1), USER, "`limits.cpus`"),
        (Limits(memory=Size(1)), MACOS, "`limits.memory`"),
    ],
)
def test_a_required_limit_that_nothing_enforces(limits: Limits, host: Facilities, names: str) -> None:
    """With `require`, a limit that would not be enforced refuses the task, and is named."""
    with pytest.raises(LimitUnsupportedError) as refusal:
        decide(limits, "require", host)
    assert str(refusal.value) == f"{names} cannot be enforced on this worker"


def test_a_required_limit_that_is_enforced() -> None:
    """With `require`, weaker means are means all the same."""
    asked = Limits(memory=Size(MIB), nofile=8)
    assert decide(asked, "require", ROOT) == decide(asked, "best_effort", ROOT)


def test_no_limits() -> None:
    """A task without limits is not confined, and nothing is looked up for it."""
    assert plan(Context()) == Plan()


def test_only_limits_that_need_a_cgroup_look_for_one() -> None:
    """What rlimits can do does not divide our cgroup."""
    assert facilities(Limits(nofile=8, cpu_seconds=1, output=Size(1))).controllers == frozenset()


# The category's limits


def context(asked: Limits, most: Limits, **task: Any) -> Context:
    """Return a task's context."""
    return Context(task=Task(category="gpu", limits=asked, **task), resource_limits=most)


def test_a_task_gets_its_categorys_limits() -> None:
    """A limit that the task does not ask for is the category's; one that it does is its own."""
    merged = merge(context(Limits(nofile=10, cpus=0.5), Limits(nofile=20, pids=5)))
    assert merged == Limits(nofile=10, cpus=0.5, pids=5)


def test_a_limit_may_be_as_high_as_its_categorys() -> None:
    """The maximum itself is allowed."""
    assert merge(context(Limits(nofile=20), Limits(nofile=20))) == Limits(nofile=20)


@pytest.mark.parametrize(
    ("asked", "most", "message"),
    [
        (Limits(nofile=21), Limits(nofile=20), "`limits.nofile` is 21; runners.gpu.resource_limits.nofile allows 20"),
        (Limits(cpus=2.5), Limits(cpus=2), "`limits.cpus` is 2.5; runners.gpu.resource_limits.cpus allows 2"),
    ],
)
def test_a_limit_above_its_categorys(asked: Limits, most: Limits, message: str) -> None:
    """A task that asks for more than its category may have is refused, and both numbers are named."""
    with pytest.raises(PolicyDeniedError) as refusal:
        plan(context(asked, most))
    assert str(refusal.value) == message


def test_the_categorys_limits_are_reported() -> None:
    """A limit that only the category sets is in the Result, too."""
    applied = plan(context(Limits(), Limits(nofile=20))).applied
    assert applied == {"nofile": AppliedLimit(requested=20, enforced_by="rlimit")}


# Resident memory


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs procfs")
def test_resident_memory() -> None:
    """What processes hold is summed up; one that is gone holds nothing."""
    own = os.getpid()
    assert is_over([own], 100_000)
    assert not is_over([own], 2**50)
    assert not is_over([2**22 + 1], 0)


# Cgroups


class KernelPath(type(Path())):  # type: ignore[misc]  # the concrete class depends on the platform
    """A directory as the kernel makes it: with its files in it, which do not count when it is removed."""

    FILES = ("cgroup.procs", "cgroup.kill", "cgroup.events", "cgroup.type", "cgroup.subtree_control")
    LIMITS: tuple[str, ...] = (
        "memory.max",
        "memory.oom.group",
        "memory.swap.max",
        "memory.events",
        "pids.max",
        "cpu.max",
    )

    def mkdir(self, *args: Any, **kwargs: Any) -> None:
        """Make a group."""
        super().mkdir(*args, **kwargs)
        for name in (*self.FILES, *self.LIMITS):
            (self / name).touch()

    def rmdir(self) -> None:
        """Remove a group: its files are no obstacle, but groups in it are."""
        for entry in self.iterdir():
            if not entry.is_dir():
                entry.unlink()
        super().rmdir()

    def read_text(self, *args: Any, **kwargs: Any) -> str:
        """Read a file; the controllers that the children have are those that were asked for and are not refused."""
        text: str = super().read_text(*args, **kwargs)
        granted = self.with_name("granted")
        return granted.read_text() if self.name == "cgroup.subtree_control" and granted.exists() else text


class SwaplessPath(KernelPath):
    """The same without swap."""

    LIMITS = ("memory.max",)


@pytest.fixture
def parent(tmp_path: Path) -> KernelPath:
    """Return a group that has all controllers to give."""
    group = KernelPath(tmp_path / "own")
    group.mkdir()
    (group / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    return group


def groups(parent: Path) -> set[str]:
    """Return the names of the groups in a group."""
    return {entry.name for entry in parent.iterdir() if entry.is_dir()}


def test_a_division(parent: KernelPath) -> None:
    """We move out of our group, and its children get the controllers that the kernel grants."""
    (parent / "granted").write_text("memory pids hugetlb\n")
    (parent / "cgroup.procs").write_text(f"{os.getpid()}\n")
    divided = Division.of(parent)
    assert divided is not None
    assert divided.controllers == {"memory", "pids"}
    assert groups(parent) == {"worker"}
    assert (parent / "worker" / "cgroup.procs").read_text().startswith(str(os.getpid()))


def test_the_root_group_may_hold_processes(parent: KernelPath) -> None:
    """In the real root, which has no type, we stay."""
    (parent / "cgroup.type").unlink()
    assert Division.of(parent) is not None
    assert groups(parent) == set()


def test_controllers_that_are_refused(parent: KernelPath) -> None:
    """A controller that cannot be had is dropped; with none, groups can still be killed."""
    (parent / "cgroup.subtree_control").unlink()
    (parent / "cgroup.subtree_control").mkdir()
    divided = Division.of(parent)
    assert divided is not None
    assert divided.controllers == set()


def test_no_controllers_no_move(parent: KernelPath) -> None:
    """Where there is nothing to be had, as in a hybrid hierarchy, we stay where we are."""
    (parent / "cgroup.controllers").write_text("hugetlb\n")
    assert Division.of(parent) is not None
    assert groups(parent) == set()


def test_a_group_that_is_not_ours(tmp_path: Path) -> None:
    """Where no group can be made there is no division."""
    assert Division.of(tmp_path / "missing") is None


def test_a_kernel_that_cannot_kill_groups(tmp_path: Path) -> None:
    """Before cgroup.kill (Linux 5.14) there is no division; the probe is removed."""
    assert Division.of(tmp_path) is None
    assert groups(tmp_path) == set()


def test_groups_of_dead_workers_are_removed(parent: KernelPath) -> None:
    """What a killed worker has left is removed by the next; a live one's stays."""
    dead, alive = parent / f"jetrunner-{2**22 + 1}-1", parent / f"jetrunner-{os.getppid()}-1"
    dead.mkdir()
    (dead / "inner").mkdir()
    alive.mkdir()
    Division.of(parent)
    assert groups(parent) - {"worker"} == {alive.name}


def test_each_task_has_its_group(parent: KernelPath) -> None:
    """A group is made with its limits in their files, each under its own name."""
    divided = Division.of(parent)
    assert divided is not None
    first, second = divided.make({"pids.max": "10", "cpu.max": "5000 100000"}), divided.make({})
    assert first.path != second.path
    assert (first.path / "pids.max").read_text() == "10"
    assert (first.path / "cpu.max").read_text() == "5000 100000"


def test_a_kernel_that_does_not_account_for_swap(tmp_path: Path) -> None:
    """Where there is no file for swap, nothing is limited there."""
    group = Cgroup.make(SwaplessPath(tmp_path / "task"), {"memory.swap.max": "0", "memory.max": "1"})
    assert (group.path / "memory.max").read_text() == "1"
    assert not (group.path / "memory.swap.max").exists()


def test_a_limit_that_is_refused(parent: KernelPath) -> None:
    """A group that cannot have its limits is not kept."""
    with pytest.raises(FileNotFoundError):
        Cgroup.make(parent / "task", {"no.such.file": "1"})
    assert groups(parent) == set()


@pytest.fixture
def group(parent: KernelPath) -> Cgroup:
    """Return a task's group."""
    return Cgroup.make(parent / "task", {})


def test_who_is_in_a_group(group: Cgroup) -> None:
    """A group lists its live processes; one that is gone has none."""
    (group.path / "cgroup.procs").write_text("7\n8\n")
    assert group.processes() == [7, 8]
    group.path.rmdir()
    assert group.processes() == []


def test_a_group_is_killed(group: Cgroup) -> None:
    """Killing all in a group is one write; in one that is gone there is nobody."""
    group.kill()
    assert (group.path / "cgroup.kill").read_text() == "1"
    group.path.rmdir()
    group.kill()


@pytest.mark.anyio
async def test_an_empty_group_has_ended(group: Cgroup) -> None:
    """Where nobody is left there is nothing to wait for."""
    (group.path / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert await group.end()
    assert (group.path / "cgroup.kill").read_text() == ""


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ("low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\noom_group_kill 0\n", 0),
        ("max 7\noom 1\noom_kill 3\noom_group_kill 1\n", 3),
        ("oom 1\noom_kill 2\n", 2),
        ("", 0),
    ],
)
def test_kills_for_memory_are_counted(events: str, count: int, group: Cgroup) -> None:
    """The kernel's own kills are counted; reaching the limit without one is none."""
    (group.path / "memory.events").write_text(events)
    assert group.oom_kills() == count


@pytest.mark.anyio
async def test_a_group_is_removed_with_those_in_it(group: Cgroup) -> None:
    """What the task has made in its group goes with it; to remove it twice is no error."""
    (group.path / "inner").mkdir()
    assert await group.remove()
    assert not group.path.exists()
    assert await group.remove()


@pytest.mark.anyio
async def test_a_group_that_cannot_be_removed(tmp_path: Path) -> None:
    """A group that stays busy is given up after a while."""
    (tmp_path / "busy").touch()
    assert not await Cgroup(tmp_path).remove()


@pytest.mark.parametrize(
    ("group", "mount", "path"),
    [
        ("/", "/ /sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"),
        ("/user.slice/x", "/ /sys/fs/cgroup", "/sys/fs/cgroup/user.slice/x"),
        ("/docker/abc", "/docker/abc /sys/fs/cgroup", "/sys/fs/cgroup"),
        ("/docker/abc/in", "/docker/abc /sys/fs/cgroup", "/sys/fs/cgroup/in"),
    ],
)
def test_our_own_group(group: str, mount: str, path: str, tmp_path: Path) -> None:
    """Our group is found below its mount point, wherever that is, and whatever part of the tree is mounted there."""
    (tmp_path / "cgroup").write_text(f"4:memory:/other\n0::{group}\n")
    (tmp_path / "mountinfo").write_text(
        "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        f"41 31 0:38 {mount} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
    )
    assert own_group(tmp_path) == Path(path)


@pytest.mark.parametrize(("cgroup", "mountinfo"), [("4:memory:/\n", ""), ("0::/\n", "")])
def test_no_group_of_our_own(cgroup: str, mountinfo: str, tmp_path: Path) -> None:
    """Where version 2 is not in use there is none."""
    assert own_group(tmp_path / "macOS") is None
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mountinfo)
    assert own_group(tmp_path) is None
