"""Followers get every byte, however far the server is behind the task; the task does not wait for it."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

import anyio
import pytest

from bench.machine import peak_rss, reset_peak_rss, rss
from consumer.backlog import WINDOW
from consumer.follow import OutputChunk
from schemas import Result, Status
from tests.integration.conftest import PATIENCE, Server, Site

pytestmark = pytest.mark.anyio

MIB = 2**20
LONG = 40 * MIB
"""More than may be under way to the server."""


class Story:
    """What a follower was told."""

    def __init__(self) -> None:
        self.size = {"stdout": 0, "stderr": 0}
        self.digest = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
        self.lost = {"stdout": 0, "stderr": 0}
        self.result: Result | None = None

    async def read(self, site: Site, task_id: str) -> None:
        """Follow a task to its end."""
        async with aclosing(site.user.follow(task_id)) as items:
            async for item in items:
                if isinstance(item, OutputChunk):
                    self.size[item.stream] += len(item.data)
                    self.digest[item.stream].update(item.data)
                    self.lost[item.stream] += item.lost
                if isinstance(item, Result):
                    self.result = item


def spools() -> int:
    """Count our open files that have no name."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            count += target.startswith(gettempdir()) and target.endswith("(deleted)")
    return count


@asynccontextmanager
async def followed(site: Site, task_id: str) -> AsyncIterator[Story]:
    """Follow a task while the body lasts, and to its end."""
    story = Story()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(story.read, site, task_id)
        yield story


async def appears(path: Path) -> None:
    """Wait for a file."""
    file = anyio.Path(path)
    with anyio.fail_after(PATIENCE):
        while not await file.exists():  # noqa: ASYNC110 - a file sends no event
            await anyio.sleep(0.01)


class Gated:
    """A script that waits for a word, prints, and says that it has."""

    def __init__(self, directory: Path, script: str) -> None:
        self.go = directory / "go"
        self.done = directory / "done"
        self.text = f"until test -e {self.go}; do sleep 0.01; done; {script}; touch {self.done}"

    async def submit(self, site: Site, **task: object) -> None:
        """Submit it, and return once it runs."""
        started = await site.listen(site.subjects.event("a", "started"))
        await site.submit("command", "a", command="/bin/sh", args=["-c", self.text], **task)
        await started.count(1)

    async def print(self) -> None:
        """Let it print all it has."""
        self.go.touch()
        await appears(self.done)


async def test_a_server_that_stands_still(server: Server, own_site: Site, tmp_path: Path) -> None:
    """What a task prints meanwhile at full speed reaches its followers later, every byte; the task is long over."""
    script = Gated(tmp_path, f"head -c {LONG} /dev/urandom; head -c {LONG // 4} /dev/urandom >&2")
    before = spools()
    async with own_site.worker():
        async with followed(own_site, "a") as story:
            await script.submit(own_site)
            server.freeze()
            await script.print()
            assert story.size["stdout"] < LONG
            assert spools() == before + 2
            server.wake()
        await own_site.settled()
    result = story.result
    assert result is not None
    assert (result.status, result.streams.stdout.bytes) == (Status.SUCCESS, LONG)
    assert story.lost == {"stdout": 0, "stderr": 0}
    assert story.digest["stdout"].hexdigest() == result.streams.stdout.sha256
    assert story.digest["stderr"].hexdigest() == result.streams.stderr.sha256
    assert spools() == before


async def test_a_server_that_is_killed(server: Server, own_site: Site, tmp_path: Path) -> None:
    """Nor does an outage lose a byte."""
    script = Gated(tmp_path, f"head -c {LONG} /dev/urandom")
    async with own_site.worker():
        async with followed(own_site, "a") as story:
            await script.submit(own_site)
            script.go.touch()
            server.kill()
            await appears(script.done)
            server.start()
        await own_site.settled()
    assert story.result is not None
    assert story.lost["stdout"] == 0
    assert story.digest["stdout"].hexdigest() == story.result.streams.stdout.sha256


async def test_output_beyond_its_limit(own_site: Site, tmp_path: Path) -> None:
    """It is a gap of exactly its size, at the end; all before it comes."""
    limit, size = 3 * MIB + 5, 10 * MIB
    script = Gated(tmp_path, f"head -c {size} /dev/zero; printf short >&2")
    async with own_site.worker():
        async with followed(own_site, "a") as story:
            await script.submit(own_site, limits={"output": limit})
            await script.print()
        await own_site.settled()
    assert (story.size, story.lost) == ({"stdout": limit, "stderr": 5}, {"stdout": size - limit, "stderr": 0})
    assert story.digest["stdout"].digest() == hashlib.sha256(bytes(limit)).digest()


async def test_secrets_are_redacted_in_what_is_read_back(own_site: Site, tmp_path: Path) -> None:
    """What is spooled was redacted before."""
    script = Gated(tmp_path, f'head -c {MIB} /dev/zero; echo "$SECRET"; head -c {MIB} /dev/zero')
    async with own_site.worker():
        async with followed(own_site, "a") as story:
            await script.submit(own_site, secret_env={"SECRET": "squeamish ossifrage"})
            await script.print()
        await own_site.settled()
    assert story.digest["stdout"].digest() == hashlib.sha256(bytes(MIB) + b"[REDACTED]\n" + bytes(MIB)).digest()


async def test_the_result_comes_after_the_output(site: Site, tmp_path: Path) -> None:
    """Where the server keeps up, all output and its end are there before the Result."""
    output = await site.listen(f"{site.subjects.prefix}.output.a.*", site.subjects.result("a"))
    script = Gated(tmp_path, f"head -c {LONG} /dev/zero; echo oops >&2")
    async with site.worker():
        await script.submit(site)
        await script.print()
        await output.until(lambda: output.on(site.subjects.result("a")))
        await site.settled()
    assert output.messages[-1].subject == site.subjects.result("a")
    for stream, size in (("stdout", LONG), ("stderr", 5)):
        messages = output.on(site.subjects.output("a", stream))
        assert (messages[-1].headers or {})["Jetrunner-End"] == "1"
        assert sum(len(message.data) for message in messages) == size


async def test_output_after_the_result(site: Site, tmp_path: Path) -> None:
    """A Result does not wait for ever for a server that takes no output; whoever follows gets it all the same."""
    script = Gated(tmp_path, f"head -c {2 * WINDOW} /dev/urandom")
    name, before = site.subjects.output_stream, spools()
    async with site.worker():
        settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
        await site.api(f"STREAM.DELETE.{name}")
        await script.submit(site)
        await script.print()
        result = await site.result("a")
        await site.settled()
        assert spools() == before + 1
        await site.api(f"STREAM.CREATE.{name}", settings)
        async with followed(site, "a") as story:
            pass
    assert story.lost["stdout"] == 0
    assert story.digest["stdout"].hexdigest() == result.streams.stdout.sha256
    assert spools() == before


async def test_memory_while_a_server_stands_still(server: Server, own_site: Site, tmp_path: Path) -> None:
    """A task that prints 1 GiB grows the worker by less than 64 MiB, although nothing can be stored meanwhile."""
    script = Gated(tmp_path, "head -c 1G /dev/zero")
    async with own_site.worker():
        await script.submit(own_site)
        server.freeze()
        before = rss()
        reset_peak_rss()
        await script.print()
        server.wake()
        result = await own_site.result("a")
        await own_site.settled()
        assert peak_rss() - before < 64 * MIB
    assert result.streams.stdout.bytes == 2**30
