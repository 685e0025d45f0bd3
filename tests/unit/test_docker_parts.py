"""Tests of the smaller parts of runners.docker: frames, breaker, owners, and whose container is wanted."""

import struct
from pathlib import Path

import anyio
import pytest

from runners.docker.attach import Demultiplexer
from runners.docker.breaker import Breaker
from runners.docker.owner import Owner, is_dead, sweep
from runners.docker.reconcile import Listed, is_wanted
from runners.errors import DockerUnavailableError

PATIENCE = 10.0


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000])
def test_frames_cut_anywhere(size: int) -> None:
    """Each stream gets its bytes, in their order, empty frames included."""
    said: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}

    def take(stream: str, chunk: bytes | memoryview) -> None:
        said[stream].extend(chunk)

    demultiplexer = Demultiplexer(lambda chunk: take("out", chunk), lambda chunk: take("err", chunk))
    data = frame(1, b"one ") + frame(2, b"two ") + frame(1, b"") + frame(2, b"three") + frame(1, b"four")
    for start in range(0, len(data), size):
        demultiplexer.feed(memoryview(data[start : start + size]))
    assert said == {"out": b"one four", "err": b"two three"}


class Probe:
    """Fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise DockerUnavailableError("down")


@pytest.mark.anyio
async def test_a_breaker_is_open_until_a_probe_succeeds() -> None:
    """It begins open, since nobody knows yet, and asks as often as it takes."""
    probe = Probe(failures=2)
    breaker = Breaker(probe)
    assert breaker.obstacle is not None
    with anyio.fail_after(PATIENCE):
        await breaker.wait_closed()
    assert (breaker.obstacle, probe.asked) == (None, 3)
    await breaker.wait_closed()
    assert probe.asked == 3


@pytest.mark.anyio
async def test_a_breaker_tells_when_it_opens() -> None:
    """Whoever waits gets the reason; a call that succeeds meanwhile closes it without a probe."""
    breaker = Breaker(Probe(failures=1000))
    breaker.close()
    reasons: list[str] = []

    async def wait() -> None:
        reasons.append(await breaker.wait_open())

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            breaker.open("gone")
        async with anyio.create_task_group() as group:
            group.start_soon(breaker.wait_closed)
            await anyio.lowlevel.checkpoint()
            breaker.close()
    assert reasons == ["gone"]
    assert breaker.obstacle is None


def test_an_owner_is_dead_when_its_lock_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is not there, or that we may not open, tells nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    owner = Owner()
    assert not is_dead(owner.path)
    owner.leave(owing=True)
    assert is_dead(owner.path)
    assert not is_dead(str(tmp_path / "nosuch"))
    (tmp_path / "link").symlink_to(owner.path)
    assert not is_dead(str(tmp_path / "link"))


def test_locks_are_swept_when_nobody_bears_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the living stay, and those that a container still names."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, dead, named, tidy = Owner(), Owner(), Owner(), Owner()
    dead.leave(owing=True)
    named.leave(owing=True)
    tidy.leave(owing=False)
    assert not Path(tidy.path).exists()
    sweep({named.path})
    assert {str(path) for path in tmp_path.iterdir()} == {alive.path, named.path}
    alive.leave(owing=False)


@pytest.mark.parametrize(
    ("lock", "name", "deadline", "wanted"),
    [
        ("ours", "live", "2000", True),
        ("ours", "other", "2000", False),
        ("ours", "live", "500", True),
        ("theirs", "any", "2000", True),
        ("theirs", "any", "500", False),
        ("theirs", "any", "nonsense", False),
        ("dead", "any", "2000", False),
    ],
)
def test_whose_container_is_wanted(*, lock: str, name: str, deadline: str, wanted: bool) -> None:
    """Ours while a task of ours has it; another's while its owner may live, until its deadline."""
    container = Listed(id="1", names=(name,), labels={"jetrunner.lock": lock, "jetrunner.deadline": deadline})
    assert is_wanted(container, "ours", {"live"}, now=1000, is_dead=lambda path: path == "dead") == wanted
