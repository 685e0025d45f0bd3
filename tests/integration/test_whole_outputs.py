"""Output that does not fit a Result: whole in the object store, and named by the Result."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.objects import CHUNK, Objects
from consumer.topology import Topology, ensure_streams
from schemas import Result, StreamOutput
from tests.integration.conftest import Server, Site, open_site, running

pytestmark = pytest.mark.anyio


async def read_object(site: Site, name: str) -> bytes:
    """Read an object with another client than ours."""
    bucket = await site.raw.jetstream().object_store(site.subjects.outputs_bucket)
    into = io.BytesIO()
    await bucket.get(name, writeinto=into)
    return into.getvalue()


async def run(site: Site, task_id: str, script: str, **task: object) -> Result:
    """Run a shell script as a task."""
    async with site.worker():
        await site.submit("command", task_id, command="sh", args=["-c", script], **task)
        result = await site.result(task_id)
        await site.settled()
    return result


def whole(facts: StreamOutput, data: bytes) -> bool:
    """Compare a stream's facts with what it should have been."""
    return (facts.bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())


async def test_a_long_stream_is_kept_whole(site: Site) -> None:
    """The Result has both ends of a long stream; the object it names has all of it, in another client's eyes too."""
    expected = b"".join(b"%d\n" % number for number in range(1, 100_001))
    result = await run(site, "long", "seq 1 100000; seq 1 100000 >&2")
    for stream, text, facts in (
        ("stdout", result.output, result.streams.stdout),
        ("stderr", result.stderr, result.streams.stderr),
    ):
        assert facts.truncated
        assert facts.ref is not None
        assert whole(facts, expected), stream
        assert len(text) == 128 * 1024 == facts.bytes - facts.dropped_bytes
        assert await read_object(site, facts.ref) == expected


async def test_a_short_stream_needs_no_object(site: Site) -> None:
    """Up to 128 KiB a stream is in its Result, and nowhere else."""
    result = await run(site, "short", f"head -c {128 * 1024} /dev/zero | tr '\\0' x")
    assert result.output == "x" * 128 * 1024
    assert result.streams.stdout.ref is None
    assert (await site.stream(f"OBJ_{site.subjects.outputs_bucket}"))["messages"] == 0


async def test_the_limit_of_output(site: Site) -> None:
    """`limits.output` bounds what is kept of a stream; all of it is counted."""
    result = await run(site, "bounded", "head -c 1000000 /dev/zero | tr '\\0' x", limits={"output": 300_000})
    facts = result.streams.stdout
    assert (facts.bytes, facts.truncated) == (1_000_000, True)
    assert facts.ref is not None
    assert await read_object(site, facts.ref) == b"x" * 300_000


async def test_what_json_makes_too_long(tmp_path: Path) -> None:
    """Output that is short enough but not in JSON's words is kept whole too; the Result fits the server's limit."""
    with running(tmp_path, "max_payload: 65536") as server:
        async with open_site(server.url) as site:
            result = await run(site, "escapes", "head -c 40000 /dev/zero | tr '\\0' '\\001'")
            facts = result.streams.stdout
            assert (facts.bytes, facts.truncated) == (40_000, True)
            assert facts.ref is not None
            assert await read_object(site, facts.ref) == b"\1" * 40_000


async def test_a_server_that_dies_meanwhile(own_site: Site, server: Server) -> None:
    """An object is stored whole although the server is killed between its chunks."""
    site = own_site
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    tries = 0

    def pieces() -> Iterator[bytes]:
        nonlocal tries
        tries += 1
        yield b"a" * CHUNK * 10
        if tries == 1:
            server.kill()
            server.start()
        yield b"a" * CHUNK * 10

    await Objects(site.connection, site.subjects).put("name", pieces)
    assert tries > 1
    assert await read_object(site, "name") == b"a" * CHUNK * 20
