"""`jetrunner doctor` as a process, on servers with and without what is to be found."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consumer.connection import Connection
from consumer.jetstream import api
from consumer.topology import Topology, ensure_streams
from tests.acceptance.conftest import Server, Site, processes

OF_SERVER = ["server", "payload", "round trip", "jetstream", "streams", "clock"]
OF_MACHINE = ["python", "user", "pidfd", "subreaper", "cgroup v2", "docker", "nats-server"]


@contextmanager
def serving(directory: Path, configuration: str) -> Iterator[Site]:
    """Have a server with a configuration of its own."""
    file = directory / "nats.conf"
    file.write_text(configuration)
    server = Server(directory, "-c", str(file))
    try:
        yield Site(server, directory)
    finally:
        server.kill()


def examine(site: Site, *args: str, code: int = 0) -> dict[str, dict[str, str]]:
    """Return what `doctor -o json` finds, by name."""
    done = site.jetrunner("doctor", "-o", "json", *args)
    assert (done.code, done.stderr) == (code, "")
    return {each["name"]: each for each in json.loads(done.out)}


async def streams(connection: Connection) -> list[object]:
    return list((await api(connection, "STREAM.LIST"))["streams"] or ())


def test_all_is_well(server: Server, tmp_path: Path) -> None:
    """After `init`, all that concerns the server is ok, and the exit code is 0, whatever this machine lacks."""
    site = Site(server, tmp_path)
    assert site.jetrunner("init").code == 0
    done = site.jetrunner("doctor")
    assert (done.code, done.stderr) == (0, "")
    assert [line[9:21].strip() for line in done.lines] == OF_SERVER + OF_MACHINE
    assert {line.split()[0] for line in done.lines[: len(OF_SERVER)]} == {"ok"}
    assert {line.split()[0] for line in done.lines} <= {"ok", "warning"}


def test_it_only_looks(server: Server, tmp_path: Path) -> None:
    """Missing streams are a warning that says what to do; nothing is made, on the server or here."""
    site = Site(server, tmp_path)
    before = {*tmp_path.iterdir()}
    found = examine(site, code=0)
    assert [*found] == OF_SERVER + OF_MACHINE
    assert {found["streams"]["state"], found["clock"]["state"]} == {"warning"}
    assert found["streams"]["detail"].startswith("missing: stream JETRUNNER_TASKS, ")
    assert found["streams"]["advice"].endswith("jetrunner init")
    assert site.connected(streams) == []
    assert {path for path in tmp_path.iterdir() if path.name != "jetstream"} - before == set()
    assert [*Path("/sys/fs/cgroup").rglob("jetrunner-doctor-*")] == []
    assert processes(f"JETRUNNER_NATS_URL={server.url}") == []


def test_no_server(empty_site: Site, tmp_path: Path) -> None:
    """The exit code is 4, whether none is configured or none is there; this machine is looked at all the same."""
    found = examine(empty_site, "--server", "nats://127.0.0.1:1", code=4)
    assert [*found] == ["server", *OF_MACHINE]
    assert found["server"]["state"] == "failed"
    assert found["server"]["detail"].startswith("cannot connect to nats://127.0.0.1:1")
    del empty_site.environ["JETRUNNER_NATS_URL"]
    assert examine(empty_site, code=4)["server"]["detail"].startswith("no server is configured")
    assert [*tmp_path.iterdir()] == []


def test_what_differs_has_failed(idle_site: Site) -> None:
    """A stream that is not as declared is named, with each setting; the exit code is 1."""
    name = idle_site.subjects.results_stream

    async def change(connection: Connection) -> None:
        config = (await api(connection, f"STREAM.INFO.{name}"))["config"]
        await api(connection, f"STREAM.UPDATE.{name}", {**config, "max_age": 3600 * 10**9})

    idle_site.connected(change)
    found = examine(idle_site, code=1)["streams"]
    assert found["state"] == "failed"
    assert f"stream {name}: max_age is 3600000000000, declared 604800000000000" in found["detail"]
    assert found["advice"]


def test_streams_that_no_worker_would_make(server: Server, tmp_path: Path) -> None:
    """Where workers may not make streams, missing ones are a failure."""
    site = Site(server, tmp_path)
    site.environ["JETRUNNER_MANAGE_STREAMS"] = "false"
    found = examine(site, code=1)["streams"]
    assert (found["state"], found["advice"]) == ("failed", "make them with: jetrunner init")
    site.connected(lambda connection: ensure_streams(connection, Topology(subjects=site.subjects)))
    site.environ["JETRUNNER_WORKER_CATEGORIES"] = "command"
    assert examine(site, code=1)["streams"]["detail"] == "missing: consumer command"


def test_a_small_payload(tmp_path: Path) -> None:
    """It is a warning, and says how large it should be."""
    with serving(tmp_path, "max_payload: 65536\njetstream {}") as site:
        found = examine(site)["payload"]
    assert (found["state"], found["detail"]) == ("warning", "max_payload is 64 KiB")
    assert found["advice"].endswith("raise it to 1 MiB")


def test_no_jetstream(tmp_path: Path) -> None:
    """It is a failure, says how to enable it, and what would need it is not asked for."""
    with serving(tmp_path, "max_payload: 1048576") as site:
        found = examine(site, code=1)
    assert found["jetstream"]["state"] == "failed"
    assert found["jetstream"]["advice"].startswith("enable it: nats-server -js")
    assert [*found] == OF_SERVER[:4] + OF_MACHINE
