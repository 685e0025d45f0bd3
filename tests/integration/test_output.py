"""Live output: what followers get of a task's streams while it runs, and that the task never waits for it."""

import hashlib
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from nats.aio.msg import Msg

from consumer.backlog import PIECE, WINDOW
from consumer.connection import Connection
from consumer.output import MAX_LINGERING, MAX_UNDER_WAY, OutputPublisher
from runners.spool import Spool
from schemas import Subjects
from tests.integration.conftest import PATIENCE, Probe, Site

pytestmark = pytest.mark.anyio


def number(message: Msg, name: str) -> int:
    """Return a header of ours as a number."""
    return int((message.headers or {})[name])


def text_of(messages: list[Msg]) -> bytes:
    """Put a stream together by its offsets."""
    data = bytearray()
    for message in sorted(messages, key=lambda message: number(message, "Jetrunner-Offset")):
        assert number(message, "Jetrunner-Offset") == len(data)
        data += message.data
    return bytes(data)


def has_ended(messages: list[Msg]) -> bool:
    """Tell whether a stream's end was published."""
    return any("Jetrunner-End" in (message.headers or {}) for message in messages)


async def test_output_as_it_comes(site: Site, tmp_path: Path) -> None:
    """What a task prints is published while it runs, raw, each stream on its own subject."""
    stdout, stderr = f"{site.subjects.prefix}.output.a.stdout", f"{site.subjects.prefix}.output.a.stderr"
    output = await site.listen(stdout, stderr)
    script = f"printf 'out\\377\\000'; printf oops >&2; until test -e {tmp_path}/go; do sleep 0.01; done; echo more"
    async with site.worker():
        await site.submit("command", "a", command="/bin/sh", args=["-c", script])
        await output.until(lambda: output.on(stdout) and output.on(stderr))
        assert (output.on(stdout)[0].data, output.on(stderr)[0].data) == (b"out\xff\x00", b"oops")
        assert await site.user.result("a") is None
        (tmp_path / "go").touch()
        await site.result("a")
        await output.until(lambda: has_ended(output.on(stdout)) and has_ended(output.on(stderr)))
    assert text_of(output.on(stdout)) == b"out\xff\x00more\n"
    assert text_of(output.on(stderr)) == b"oops"


async def test_headers(site: Site) -> None:
    """Each message has its number, offset and attempt; a stream ends with an empty one that says so."""
    async with site.worker():
        script = "head -c 50000 /dev/zero; head -c 20000 /dev/zero >&2"
        await site.submit("command", "a", command="/bin/sh", args=["-c", script])
        await site.result("a")
        await site.settled()
    stored = await site.stored(f"{site.subjects.prefix.upper()}_OUTPUT", f"{site.subjects.prefix}.output.a.*")
    assert sorted(number(message, "Jetrunner-Seq") for message in stored) == [*range(1, len(stored) + 1)]
    assert {number(message, "Jetrunner-Attempt") for message in stored} == {1}
    for stream, size in (("stdout", 50_000), ("stderr", 20_000)):
        messages = [message for message in stored if message.subject.endswith(f".{stream}")]
        assert text_of([message for message in messages if message.data]) == bytes(size)
        (end,) = [message for message in messages if has_ended([message])]
        assert (end.data, (end.headers or {})["Jetrunner-End"], number(end, "Jetrunner-Offset")) == (b"", "1", size)
        assert max(len(message.data) for message in messages) <= 16 * 1024
        assert has_ended(messages[-1:])


async def test_a_task_without_output(site: Site, probe: Probe) -> None:
    """A task that prints nothing has two ends; one that never started has none."""
    async with site.worker(probe.registry):
        await site.submit("probe", "silent")
        await site.submit("probe", "refused", oops=1)
        await site.result("silent")
        await site.result("refused")
        await site.settled()
    stored = await site.stored(site.subjects.output_stream, f"{site.subjects.prefix}.output.*.*")
    assert sorted(message.subject for message in stored) == [
        f"{site.subjects.prefix}.output.silent.stderr",
        f"{site.subjects.prefix}.output.silent.stdout",
    ]
    assert all(has_ended([message]) for message in stored)


async def test_all_of_a_long_output(site: Site) -> None:
    """As long as the server keeps up, followers get every byte, in whatever order it is stored."""
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    async with site.worker():
        await site.submit("command", "a", command="/bin/sh", args=["-c", script])
        result = await site.result("a")
        await site.settled()
    stored = await site.stored(site.subjects.output_stream, site.subjects.output("a", "stdout"))
    data = text_of([message for message in stored if message.data])
    assert data == "".join(f"line {line}\n" for line in range(20_000)).encode()
    assert result.streams.stdout.sha256 == hashlib.sha256(data).hexdigest()


async def test_output_that_finds_no_store(site: Site) -> None:
    """Without a stream for it, output waits for one, and the task does not."""
    name = site.subjects.output_stream
    async with site.worker():
        settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
        await site.api(f"STREAM.DELETE.{name}")
        await site.submit("command", "a", command="echo", args=["hi"])
        assert (await site.result("a")).output == "hi\n"
        await site.settled()
        await site.api(f"STREAM.CREATE.{name}", settings)
    stored = await site.stored(name, site.subjects.output("a", "stdout"))
    assert [message.data for message in stored if message.data] == [b"hi\n"]


class Away:
    """Stands for a connection whose server is away for good."""

    def __init__(self) -> None:
        self.waiting = 0

    async def wait_connected(self) -> None:
        """Wait for ever."""
        self.waiting += 1
        await anyio.sleep_forever()

    def send(self, subject: str, *, headers: dict[str, str]) -> None:
        """Lose a message."""


async def test_memory_is_bounded() -> None:
    """However much many tasks print while nothing can be stored, only so many pieces wait for the server."""
    away = Away()
    connection: Connection = away  # type: ignore[assignment]
    async with anyio.create_task_group() as tasks:
        publisher = OutputPublisher(connection, Subjects(), tasks, "w")
        for number in range(200):
            log = publisher.open(f"t{number}", 1, {})
            for offset in range(0, 2 * WINDOW, 65536):
                log.feed("stdout", offset, bytes(65536))
            log.finish()
        await anyio.wait_all_tasks_blocked()
        assert WINDOW // PIECE < away.waiting == MAX_UNDER_WAY
        tasks.cancel_scope.cancel()


async def test_spools_of_many_ended_runs() -> None:
    """The output of ended runs goes on from their spools, but only that of so many; none stays open for ever."""
    connection: Connection = Away()  # type: ignore[assignment]
    async with anyio.create_task_group() as tasks:
        publisher = OutputPublisher(connection, Subjects(), tasks, "w")
        spools = [Spool(WINDOW) for _ in range(MAX_LINGERING + 3)]
        for number, spool in enumerate(spools):
            log = publisher.open(f"t{number}", 1, {"stdout": spool})
            spool.write(bytes(WINDOW))
            log.feed("stdout", 0, bytes(WINDOW))
            log.finish()
            log.close()
        with anyio.fail_after(PATIENCE):
            while any(spool.read(0, 1) for spool in spools[:3]):
                await anyio.lowlevel.checkpoint()
        assert all(spool.read(0, 1) for spool in spools[3:])
        tasks.cancel_scope.cancel()
    assert not any(spool.read(0, 1) for spool in spools)
