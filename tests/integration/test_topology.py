"""The streams, consumers and bucket on a real server: as the contract says, and never rewritten."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from consumer.connection import ConnectOptions, connect
from consumer.errors import TopologyError
from consumer.topology import Topology, check_server, ensure_consumer, ensure_streams
from schemas import Subjects
from tests.integration.conftest import Probe, RunningWorker, Site, eventually, running

pytestmark = pytest.mark.anyio

HOUR = 3600 * 1_000_000_000
DAY = 24 * HOUR


def topology(site: Site, **settings: Any) -> Topology:
    """Return what is wanted under a site's prefix."""
    return Topology(subjects=site.subjects, **settings)


def stream_name(site: Site, name: str) -> str:
    """Return the name of a stream, as anyone would spell it."""
    return f"{site.subjects.prefix.upper()}_{name}"


async def config(site: Site, name: str) -> dict[str, Any]:
    """Return the settings of a stream."""
    settings: dict[str, Any] = (await site.api(f"STREAM.INFO.{name}"))["config"]
    return settings


async def consumer(site: Site, category: str) -> dict[str, Any]:
    """Return the settings of a category's consumer."""
    settings: dict[str, Any] = (await site.api(f"CONSUMER.INFO.{stream_name(site, 'TASKS')}.{category}"))["config"]
    return settings


def chosen(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return some settings."""
    return {name: settings.get(name) for name in names}


# What is made


async def test_the_streams(site: Site) -> None:
    """Each stream has the subjects, the retention and the bounds of the contract."""
    assert await ensure_streams(site.connection, topology(site)) == []
    prefix = site.subjects.prefix
    expected: dict[str, dict[str, Any]] = {
        "TASKS": {
            "subjects": [f"{prefix}.tasks.*", f"{prefix}.schedule.*"],
            "retention": "workqueue",
            "discard": "old",
            "allow_msg_schedules": True,
            **dict.fromkeys(("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size"), -1),
            "max_age": 0,
        },
        "CONTROL": {"subjects": [f"{prefix}.control.*.*"], "retention": "limits", "max_age": DAY},
        "EVENTS": {"subjects": [f"{prefix}.events.*.*"], "retention": "limits", "max_age": 7 * DAY},
        "OUTPUT": {"subjects": [f"{prefix}.output.*.*"], "retention": "limits", "max_age": DAY},
        "RESULTS": {
            "subjects": [f"{prefix}.results.*"],
            "retention": "limits",
            "max_age": 7 * DAY,
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "allow_direct": True,
        },
        "DEAD": {"subjects": [f"{prefix}.dead.*"], "retention": "limits", "max_age": 30 * DAY},
    }
    for name, settings in expected.items():
        actual = await config(site, stream_name(site, name))
        assert chosen(actual, *settings) == settings
        assert (actual["storage"], actual["num_replicas"]) == ("file", 1)
    assert (await config(site, stream_name(site, "OUTPUT")))["max_bytes"] > 0


async def test_the_bucket(site: Site) -> None:
    """Large outputs go to an object store that any NATS client can read."""
    await ensure_streams(site.connection, topology(site))
    bucket = await site.raw.jetstream().object_store(f"{site.subjects.prefix}_outputs")
    await bucket.put("name", b"some output")
    assert (await bucket.get("name")).data == b"some output"


async def test_a_consumer(site: Site) -> None:
    """A category has one durable pull consumer, named after it; nothing is ever given up by the server."""
    await ensure_streams(site.connection, topology(site))
    assert await ensure_consumer(site.connection, topology(site, ack_wait=7), "command") == []
    settings = await consumer(site, "command")
    assert chosen(settings, "name", "durable_name", "filter_subject", "ack_policy", "max_deliver", "ack_wait") == {
        "name": "command",
        "durable_name": "command",
        "filter_subject": f"{site.subjects.prefix}.tasks.command",
        "ack_policy": "explicit",
        "max_deliver": 50,
        "ack_wait": 7_000_000_000,
    }
    assert "deliver_subject" not in settings


async def test_how_many_tasks_all_workers_may_have(site: Site, probe: Probe) -> None:
    """`max_ack_pending` is a bound over all workers of a category; another category is not concerned."""
    settings = {"runners": {"probe": {"max_ack_pending": 3}}}
    async with site.worker(probe.registry, **settings), site.worker(probe.registry, **settings):
        for number in range(8):
            await site.submit("probe", f"t{number}", args={"hold": True})
        await probe.until_begun(3)
        waiting = await site.api(f"CONSUMER.INFO.{stream_name(site, 'TASKS')}.probe")
        assert (waiting["num_ack_pending"], waiting["num_pending"]) == (3, 5)
        await site.submit("command", "other", command="true")
        await site.result("other")
        assert len(probe.begun) == 3
        probe.release()
        await site.settled()
    assert len(probe.begun) == 8
    assert (await consumer(site, "probe"))["max_ack_pending"] == 3
    assert (await consumer(site, "command"))["max_ack_pending"] == 20_000


async def test_another_bound_than_that_of_the_consumer(site: Site) -> None:
    """What is there stays, and it is said how it differs."""
    await ensure_streams(site.connection, topology(site))
    assert await ensure_consumer(site.connection, topology(site), "probe") == []
    other = Topology.of(site.config(runners={"probe": {"max_ack_pending": 7}}))
    assert await ensure_consumer(site.connection, other, "probe") == [
        "consumer probe: max_ack_pending is 20000, declared 7"
    ]
    assert (await consumer(site, "probe"))["max_ack_pending"] == 20_000


async def test_a_worker_makes_all_of_it(site: Site, probe: Probe) -> None:
    """A worker needs nothing to be prepared: it makes the streams, and a consumer for each of its categories."""
    async with site.worker(probe.registry):

        async def both() -> bool:
            names = await site.api(f"CONSUMER.NAMES.{stream_name(site, 'TASKS')}")
            return sorted(names["consumers"] or []) == ["command", "probe"]

        await eventually(both)


async def test_making_it_twice(site: Site) -> None:
    """What is there as declared is left alone, without a word."""
    for _ in range(2):
        assert await ensure_streams(site.connection, topology(site)) == []
        assert await ensure_consumer(site.connection, topology(site), "command") == []


async def test_making_it_at_the_same_time(site: Site) -> None:
    """Workers that start together do not get in each other's way."""
    differences: list[str] = []

    async def make() -> None:
        async with connect(site.options) as connection:
            differences.extend(await ensure_streams(connection, topology(site)))
            differences.extend(await ensure_consumer(connection, topology(site), "command"))

    async with anyio.create_task_group() as making:
        for _ in range(4):
            making.start_soon(make)
    assert differences == []


# What is there with other settings


async def test_a_stream_with_other_settings(site: Site) -> None:
    """Other settings are reported one by one, and not rewritten."""
    name = stream_name(site, "EVENTS")
    await site.api(
        f"STREAM.CREATE.{name}",
        {"name": name, "subjects": [site.subjects.event("*", "*")], "storage": "memory", "max_age": HOUR},
    )
    before = await config(site, name)
    assert sorted(await ensure_streams(site.connection, topology(site))) == [
        f"stream {name}: allow_direct is False, declared True",
        f"stream {name}: max_age is {HOUR}, declared {7 * DAY}",
        f"stream {name}: storage is 'memory', declared 'file'",
    ]
    assert await config(site, name) == before


async def test_a_consumer_with_other_settings(site: Site) -> None:
    """A consumer that someone has tuned keeps its settings, and is reported."""
    await ensure_streams(site.connection, topology(site))
    await ensure_consumer(site.connection, topology(site, ack_wait=5), "command")
    before = await consumer(site, "command")
    differences = await ensure_consumer(site.connection, topology(site), "command")
    assert differences == ["consumer command: ack_wait is 5000000000, declared 30000000000"]
    assert await consumer(site, "command") == before


async def test_a_worker_reports_other_settings(site: Site, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A worker says what differs, leaves it as it is, and works with it."""
    await ensure_streams(site.connection, topology(site, ack_wait=5))
    await ensure_consumer(site.connection, topology(site, ack_wait=5), "probe")
    name = stream_name(site, "DEAD")
    await site.api(f"STREAM.UPDATE.{name}", {**await config(site, name), "max_age": HOUR})
    with caplog.at_level(logging.WARNING):
        async with site.worker(probe.registry):
            await site.submit("probe", "a")
            assert (await site.result("a")).status == "success"
    assert f"stream {name}: max_age is {HOUR}, declared {30 * DAY}" in caplog.messages
    assert "consumer probe: ack_wait is 5000000000, declared 30000000000" in caplog.messages
    assert (await config(site, name))["max_age"] == HOUR
    assert (await consumer(site, "probe"))["ack_wait"] == 5_000_000_000


async def test_subjects_that_another_stream_has(site: Site) -> None:
    """A stream that cannot be made is one clear error with the server's reason."""
    taken = stream_name(site, "ELSEWHERE")
    await site.api(f"STREAM.CREATE.{taken}", {"name": taken, "subjects": [site.subjects.task(">")]})
    with pytest.raises(TopologyError, match=rf"the stream {stream_name(site, 'TASKS')} cannot be made: .*overlap"):
        await ensure_streams(site.connection, topology(site))


# Where nothing may be made


async def test_streams_that_are_missing_and_not_ours_to_make(site: Site, probe: Probe) -> None:
    """With `manage_streams = false` a worker makes nothing, and says what to do."""
    worker = RunningWorker(site.config(manage_streams=False), site.options, probe.registry)
    with pytest.raises(TopologyError, match="does not exist; make it with: jetrunner init"):
        await worker.serve()
    assert (await site.api(f"STREAM.INFO.{stream_name(site, 'TASKS')}"))["error"]["code"] == 404


async def test_a_consumer_that_is_missing_and_not_ours_to_make(
    site: Site, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """With `manage_streams = false` a worker waits for its consumers, says what to do, and then works."""
    await ensure_streams(site.connection, topology(site))
    await ensure_consumer(site.connection, topology(site), "command")
    await site.submit("probe", "a")
    async with site.worker(probe.registry, manage_streams=False):
        await eventually(lambda: said(caplog, "make it with: jetrunner init --category probe"))
        assert probe.begun == []
        await ensure_consumer(site.connection, topology(site), "probe")
        assert (await site.result("a")).status == "success"


# Servers that will not do


@pytest.mark.parametrize("version", [(2, 9), (2, 13), (1, 99)])
async def test_a_server_that_is_too_old(version: tuple[int, int]) -> None:
    """An older nats-server is one clear error that names both versions."""
    old: Any = SimpleNamespace(server_version=version, server="old:4222")
    text = ".".join(map(str, version))
    with pytest.raises(
        TopologyError, match=f"^the server old:4222 is nats-server {text}; jetrunner needs 2.14 or newer$"
    ):
        await check_server(old)


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    """A server without JetStream is one clear error, too."""
    with running(tmp_path, "jetstream: disabled\n") as server:
        async with connect(ConnectOptions(servers=(server.url,))) as connection:
            with pytest.raises(TopologyError, match="offers no JetStream"):
                await check_server(connection)


async def test_a_server_that_takes_too_small_messages(tmp_path: Path) -> None:
    """A server that could not take a piece of output is one clear error, before a task runs."""
    with running(tmp_path, "max_payload: 8192\n") as server:
        async with connect(ConnectOptions(servers=(server.url,))) as connection:
            with pytest.raises(TopologyError, match="takes messages of 8192 bytes at most; jetrunner needs 24576"):
                await check_server(connection)


async def test_a_server_that_will_do(site: Site) -> None:
    """The server we are tested with is new enough."""
    await check_server(site.connection)


async def said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    """Tell whether something was logged."""
    return text in caplog.text


def test_names_follow_the_prefix() -> None:
    """Streams and bucket are named after the prefix, `jetrunner` by default."""
    names = [stream["name"] for stream in Topology(subjects=Subjects()).streams()]
    assert names == [
        *("JETRUNNER_TASKS", "JETRUNNER_CONTROL", "JETRUNNER_EVENTS", "JETRUNNER_OUTPUT"),
        *("JETRUNNER_RESULTS", "JETRUNNER_DEAD", "JETRUNNER_CACHE", "OBJ_jetrunner_outputs"),
    ]


async def test_replicas_on_a_single_server(site: Site) -> None:
    """One sentence says that there is no cluster."""
    with pytest.raises(TopologyError) as refusal:
        await ensure_streams(site.connection, topology(site, replicas=3))
    assert str(refusal.value) == (
        f"`nats.replicas` is 3, but {site.connection.server} is not in a cluster with so many servers up: "
        "replicas > 1 not supported in non-clustered mode"
    )
