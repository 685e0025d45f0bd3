"""`jetrunner init` as a process: what it makes on a real nats-server, and what it leaves as it is."""

import json
from pathlib import Path

import msgspec

from consumer.connection import Connection
from consumer.jetstream import api
from tests.acceptance.conftest import Server, Site

THINGS = {
    "JETRUNNER_TASKS": "stream",
    "JETRUNNER_CONTROL": "stream",
    "JETRUNNER_EVENTS": "stream",
    "JETRUNNER_OUTPUT": "stream",
    "JETRUNNER_RESULTS": "stream",
    "JETRUNNER_DEAD": "stream",
    "JETRUNNER_CACHE": "stream",
    "jetrunner_outputs": "bucket",
    "command": "consumer",
}


def report(site: Site, *args: str) -> dict[str, dict[str, object]]:
    """Return what `init -o json` tells, by name."""
    done = site.jetrunner("init", "-o", "json", *args)
    assert done.stderr == ""
    return {each["name"]: each for each in json.loads(done.out)}


async def streams(connection: Connection) -> dict[str, object]:
    """Return the configuration of all streams."""
    return {each["config"]["name"]: each["config"] for each in (await api(connection, "STREAM.LIST"))["streams"]}


def test_init_makes_what_is_missing_and_no_more(server: Server, tmp_path: Path) -> None:
    """First all is created, then all exists, and then one more category is asked for."""
    site = Site(server, tmp_path)
    done = site.jetrunner("init", "--category", "command")
    assert (done.code, done.stderr) == (0, "")
    told = [line.split() for line in done.lines]
    assert told == [[kind, name, "created"] for name, kind in THINGS.items()]
    made = site.connected(streams)
    again = report(site, "--category", "command", "--category", "my-own", "--category", "my-own")
    states = {name: (each["kind"], each["state"]) for name, each in again.items()}
    assert states == {
        **{name: (kind, "exists") for name, kind in THINGS.items()},
        "my-own": ("consumer", "created"),
    }
    assert site.connected(streams) == made


def test_init_leaves_what_differs_and_says_so(server: Server, tmp_path: Path) -> None:
    """Exit code 1, each difference by name; nothing is rewritten, and the rest is made all the same."""
    site = Site(server, tmp_path)
    theirs = {"name": "JETRUNNER_EVENTS", "subjects": ["jetrunner.events.>"], "storage": "memory"}
    site.connected(lambda connection: api(connection, "STREAM.CREATE.JETRUNNER_EVENTS", theirs))
    before = site.connected(streams)["JETRUNNER_EVENTS"]
    done = site.jetrunner("init")
    assert (done.code, done.stderr) == (1, "")
    begin = done.lines.index(next(line for line in done.lines if line.endswith("differs")))
    assert done.lines[begin].split() == ["stream", "JETRUNNER_EVENTS", "differs"]
    assert "storage is 'memory', declared 'file'" in {line.strip() for line in done.lines[begin + 1 :]}
    assert all(line.split()[-1] == "created" for line in done.lines if line[0] != " " and "_EVENTS" not in line)
    second = report(site)
    assert second["JETRUNNER_EVENTS"]["state"] == "differs"
    assert "storage is 'memory', declared 'file'" in msgspec.convert(
        second["JETRUNNER_EVENTS"]["differences"], list[str]
    )
    assert site.connected(streams)["JETRUNNER_EVENTS"] == before


def test_init_refuses_what_cannot_be(empty_site: Site) -> None:
    """A bad category or number of replicas is exit code 2, no server is 4, and one sentence says so."""
    said = {
        (2, "the category 'a.b' must be"): ["--category", "a.b"],
        (2, "--replicas"): ["--replicas", "6"],
        (4, "cannot connect to"): ["--server", "nats://127.0.0.1:1"],
    }
    all_done = empty_site.jetrunner_each(*(["init", *args] for args in said.values()))
    for (code, text), done in zip(said, all_done, strict=True):
        assert (done.code, done.out, done.stderr.count("\n")) == (code, "", 1), done.stderr
        assert text in done.stderr


def test_init_needs_jetstream(tmp_path: Path) -> None:
    """A server without it is our error, in one sentence."""
    server = Server(tmp_path, "-DV")
    try:
        done = Site(server, tmp_path).jetrunner("init")
    finally:
        server.kill()
    assert (done.code, done.out) == (1, "")
    assert done.stderr.startswith(f"jetrunner: the server {server.url.removeprefix('nats://')} offers no JetStream: ")
