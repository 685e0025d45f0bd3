"""A task's way through a worker, seen from outside: from its message to its Result, its answer and its ack."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg

from consumer.connection import Connection, NoReplyError
from consumer.lease import RENEWALS, Leases
from consumer.topology import Topology, ensure_consumer, ensure_streams
from runners.command import CommandRunner
from schemas import Cause, Result, Status, decode, encode, utc_now
from tests.integration.conftest import Listener, Probe, Site, eventually, open_site, running

pytestmark = pytest.mark.anyio

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


async def prepare(site: Site, *categories: str, ack_wait: float = 30) -> None:
    """Make streams and consumers before there is any worker."""
    topology = Topology(subjects=site.subjects, ack_wait=ack_wait)
    await ensure_streams(site.connection, topology)
    for category in categories:
        await ensure_consumer(site.connection, topology, category)


async def consumer(site: Site, category: str) -> dict[str, Any]:
    """Return the state of a category's consumer."""
    return await site.api(f"CONSUMER.INFO.{site.subjects.tasks_stream}.{category}")


async def take(site: Site, category: str) -> Msg:
    """Take a task from the queue as a worker does, and do nothing with it: that worker is dead."""
    inbox = site.raw.new_inbox()
    taken = await site.listen(inbox)
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{site.subjects.tasks_stream}.{category}"
    await site.raw.publish(pull, b'{"batch":1}', reply=inbox)
    return (await taken.count(1))[0]


def acks(listener: Listener, word: bytes) -> list[Msg]:
    """Return what was said about deliveries."""
    return [message for message in listener.messages if message.data == word]


# The way of a task


async def test_a_task_as_in_the_seed(site: Site) -> None:
    """The seed's first example, word for word, ends in one Result; nothing of it is left in the queue."""
    async with site.worker():
        seq = await site.publish("command", rb'{"command":"/bin/ls","args":"[\"-la\", \"/tmp\"]"}')
        result = await site.result_at(seq)
        assert (result.status, result.exit_code, result.category) == (Status.SUCCESS, 0, "command")
        assert result.output.startswith("total ")
        await site.settled()
        assert await site.results() == 1
        assert await site.dead("command") == []


async def test_the_stored_result(site: Site) -> None:
    """A Result is JSON with the fields, names and forms of the contract."""
    async with site.worker() as worker:
        task = {"command": "/bin/sh", "args": ["-c", "echo hi; echo no >&2; exit 3"], "labels": {"team": "a"}}
        await site.submit("command", "mine", **task)
        await site.result("mine")
        prefix = site.subjects.prefix
        message = await site.raw.jetstream().get_last_msg(f"{prefix.upper()}_RESULTS", f"{prefix}.results.mine")
    assert message.data is not None
    result = msgspec.json.decode(message.data)
    expected: dict[str, Any] = {
        "task_id": "mine",
        "category": "command",
        "status": "failed",
        "output": "hi\n",
        "stderr": "no\n",
        "error": "the process ended with exit code 3",
        "exit_code": 3,
        "error_class": "execution",
        "error_code": "exit_nonzero",
        "retryable": False,
        "signal": None,
        "attempt": 1,
        "worker": worker.name,
        "output_complete": True,
        "termination": {
            "cause": "exit",
            "signals": [],
            "leaked_processes": 0,
            "unkillable": False,
            "by": None,
            "reason": None,
        },
        "http": None,
        "docker": None,
        "cached": False,
        "degraded": False,
        "labels": {"team": "a"},
    }
    assert {name: result[name] for name in expected} == expected
    assert result["streams"]["stdout"] == {
        "bytes": 3,
        "encoding": "utf-8",
        "truncated": False,
        "dropped_bytes": 0,
        "ref": None,
        "sha256": "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4",
    }
    assert result["usage"].keys() == {"cpu_user", "cpu_system", "max_rss"}
    assert {"limits", "trace_id"} <= result.keys()
    assert all(RFC_3339.fullmatch(result[name]) for name in ("start_time", "end_time"))
    assert isinstance(result["duration"], int)


@pytest.mark.parametrize(
    "args",
    [["a", "b c"], '["a", "b c"]', {"args": ["a", "b c"]}, '{"args": ["a", "b c"]}', {"args": '["a", "b c"]'}],
    ids=["list", "list in a string", "object", "object in a string", "list in a string in an object"],
)
async def test_all_forms_of_args(site: Site, args: object) -> None:
    """Arguments may be a list, an object, or either of them as JSON in a string."""
    async with site.worker():
        await site.submit("command", "a", command="printf", args=args)
        result = await site.result("a")
    assert (result.status, result.output) == (Status.SUCCESS, "a")


async def test_what_a_process_is_given(site: Site, tmp_path: Path) -> None:
    """Environment, secrets, working directory and standard input of the task are its process's own."""
    async with site.worker():
        task: dict[str, Any] = {
            "command": "/bin/sh",
            "args": ["-c", 'echo "$A $B $TASK_ID"; pwd; cat'],
            "env": {"A": "1"},
            "secret_env": {"B": "2"},
            "cwd": str(tmp_path),
            "stdin": {"base64": "aGk="},
        }
        await site.submit("command", "a", **task)
        result = await site.result("a")
    assert result.output.splitlines()[1:] == [str(tmp_path), "hi"]
    assert result.output.startswith("1 ")
    assert result.output.splitlines()[0].endswith(" a")


async def test_the_result_is_stored_before_the_ack(site: Site, probe: Probe) -> None:
    """As long as the Result finds no store, it is sent again under one identity, and the task stays in the queue."""
    name, subject = site.subjects.results_stream, site.subjects.result("a")
    async with site.worker(probe.registry):
        settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        said = await site.listen(f"$JS.ACK.{site.subjects.tasks_stream}.>")
        await site.api(f"STREAM.DELETE.{name}")
        tries = await site.refuse(subject)
        probe.release()
        await tries.count(3)
        assert (await site.tasks_left(), said.messages) == (1, [])
        await site.api(f"STREAM.CREATE.{name}", settings)
        await tries.stop()
        await site.settled()
        await said.until(lambda: acks(said, b"+ACK"))
    assert len({(message.headers or {})["Nats-Msg-Id"] for message in tries.messages}) == 1
    assert await site.results() == 1
    assert probe.begun == ["a"]


# Who a task is


async def test_ids(site: Site, probe: Probe) -> None:
    """A task is named by its `id`, else by its `Nats-Msg-Id`, else by its sequence and the time of its storage."""
    await prepare(site, "probe")
    await site.publish("probe", {"id": "given"}, {"Nats-Msg-Id": "ignored"})
    await site.publish("probe", {}, {"Nats-Msg-Id": "header"})
    seq = await site.publish("probe", {}, {"Nats-Msg-Id": "no token"})
    stored = await site.raw.jetstream().get_msg(site.subjects.tasks_stream, seq)
    assert stored.time is not None
    milliseconds = (stored.time - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
    async with site.worker(probe.registry):
        await site.settled()
    assert sorted(probe.begun) == ["given", "header", f"s{seq}-{milliseconds}"]
    assert await site.results() == 3


async def test_the_server_keeps_a_submission_from_being_stored_twice(site: Site, probe: Probe) -> None:
    """Two submissions with the same `Nats-Msg-Id` are one."""
    await prepare(site, "probe")
    first = await site.publish("probe", {}, {"Nats-Msg-Id": "once"})
    assert await site.publish("probe", {}, {"Nats-Msg-Id": "once"}) == first
    assert await site.tasks_left() == 1


async def test_one_id_names_one_task(site: Site, probe: Probe) -> None:
    """A message whose id has a stored Result is acked and not run; its sender is answered with that Result."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", args={"say": "first"})
        await site.result("a")
        answers = await site.listen("replies.>")
        await site.publish("probe", {"id": "a", "args": {"say": "second"}, "reply_to": "replies.me"})
        await site.publish("probe", {"args": {"say": "third"}}, {"Nats-Msg-Id": "a-again", "Jetrunner-Task-Id": "a"})
        await site.settled()
        await answers.until(lambda: answers.on("replies.me"))
    (answer,) = answers.on("replies.me")
    assert decode(Result, answer.data).output == "first"
    assert probe.begun == ["a"]
    assert await site.results() == 1


async def test_one_id_at_the_same_time(site: Site, probe: Probe) -> None:
    """A second message with the id of a running task is done with when that task is."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        await site.publish("probe", {"id": "a"})
        await eventually(lambda: _is_delivered(site, 2))
        assert await site.tasks_left() == 2
        probe.release()
        await site.settled()
    assert probe.begun == ["a"]
    assert await site.results() == 1


async def _is_delivered(site: Site, count: int) -> bool:
    return int((await consumer(site, "probe"))["num_ack_pending"]) == count


# Malformed tasks

NUL = "\0"
MALFORMED: dict[str, tuple[object, dict[str, str], str]] = {
    "empty": (b"", {}, "the payload is empty"),
    "not JSON": (b"{", {}, "the payload is not valid JSON"),
    "binary": (b"\xff\xfe\x00", {}, "the payload is not valid JSON"),
    "not an object": (["ls"], {}, "expected `object`, got `array`"),
    "unknown field": ({"comand": "ls"}, {}, "unknown field `comand`"),
    "misplaced field": ({"command": "ls", "memory": "1MiB"}, {}, "unknown field `memory`; it belongs in `limits`"),
    "no command": ({}, {}, "`command` is missing"),
    "args is no JSON": ({"command": "ls", "args": "-la"}, {}, "`args` is a string but not JSON"),
    "args is a number": ({"command": "ls", "args": "7"}, {}, "`args` must be a list or an object"),
    "args of the wrong shape": ({"command": "ls", "args": [1]}, {}, "expected `str`, got `int`"),
    "unknown parameter": ({"command": "ls", "args": {"shell": True}}, {}, "unknown field `shell`"),
    "NUL in command": ({"command": f"l{NUL}s"}, {}, "`command` contains a NUL byte"),
    "NUL in args": ({"command": "ls", "args": ["a", f"b{NUL}"]}, {}, "`args[1]` contains a NUL byte"),
    "NUL in env": ({"command": "ls", "env": {"A": NUL}}, {}, "`env.A` contains a NUL byte"),
    "bad id": ({"id": "not a token", "command": "ls"}, {}, "`id`"),
    "bad category": ({"category": "docker", "command": "ls"}, {}, "`category` is 'docker'"),
    "bad reply subject": ({"command": "ls", "reply_to": "$JS.API.INFO"}, {}, "`reply_to`: the reply subject"),
    "bad reply header": ({"command": "ls"}, {"Reply-To": "elsewhere"}, "`reply_to`: the reply subject"),
    "bad content type": ({"command": "ls"}, {"Content-Type": "text/yaml"}, "the Content-Type 'text/yaml'"),
    "not msgpack": (b"\xc1", {"Content-Type": "application/msgpack"}, "the payload is not valid MSGPACK"),
    "lone surrogate": (rb'{"command": "ls", "args": ["\ud800"]}', {}, "the payload is not valid JSON"),
    "deeply nested": (b'{"args":' + b"[" * 5000 + b"]" * 5000 + b"}", {}, "the payload is not valid JSON"),
    "as large as may be": (b"x" * 2**20, {}, "the payload is not valid JSON"),
}


async def test_malformed_tasks(site: Site) -> None:
    """Each malformed task ends in an `invalid_task` Result with a sentence, and a dead letter; the queue goes on."""
    await prepare(site, "command")
    seqs = {kind: await site.publish("command", payload, headers) for kind, (payload, headers, _) in MALFORMED.items()}
    await site.submit("command", "good", command="true")
    async with site.worker():
        results = {kind: await site.result_at(seq) for kind, seq in seqs.items()}
        assert (await site.result("good")).status is Status.SUCCESS
        await site.settled()
    for kind, result in results.items():
        assert MALFORMED[kind][2] in result.error, kind
        assert "\n" not in result.error
        assert (result.status, result.error_class, result.error_code) == ("error", "parameter", "invalid_task"), kind
        assert (result.start_time, result.exit_code, result.retryable) == (None, None, False)
    letters = {(letter.headers or {})["Jetrunner-Task-Id"]: letter for letter in await site.dead("command")}
    assert letters.keys() == {result.task_id for result in results.values()}
    assert await site.results() == len(MALFORMED) + 1
    for kind, result in results.items():
        payload = MALFORMED[kind][0]
        original = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        assert original.startswith(letters[result.task_id].data)
        assert len(letters[result.task_id].data) > len(original) - 4096


async def test_a_dead_letter(site: Site) -> None:
    """A dead letter says what was asked for, by whom, and why it was given up."""
    async with site.worker():
        headers = {"Reply-To": "replies.me", "X-Other": "kept"}
        await site.publish("command", b'{"id":"a","oops":1}', headers)
        result = await site.result("a")
        await site.settled()
    (letter,) = await site.dead("command")
    assert letter.data == b'{"id":"a","oops":1}'
    assert letter.headers is not None
    assert letter.headers["Jetrunner-Reason"] == result.error == "unknown field `oops`"
    assert letter.headers["Jetrunner-Error-Code"] == "invalid_task"
    assert letter.headers["Jetrunner-Attempt"] == "1"
    assert msgspec.json.decode(letter.headers["Jetrunner-Headers"]) == headers


@pytest.mark.parametrize(
    ("task", "status"),
    [
        ({"command": "false"}, Status.FAILED),
        ({"command": "/no/such/file"}, Status.FAILED),
        ({"command": "sleep", "args": ["60"], "timeout": 0.05}, Status.TIMEOUT),
        ({"command": "true", "expires": "2020-01-01T00:00:00Z"}, Status.TIMEOUT),
    ],
    ids=["failed", "not found", "time-out", "expired"],
)
async def test_what_is_no_dead_letter(site: Site, task: dict[str, Any], status: Status) -> None:
    """A task that failed by itself is done with: only `error` Results make dead letters."""
    async with site.worker():
        await site.submit("command", "a", **task)
        assert (await site.result("a")).status is status
        await site.settled()
    assert await site.dead("command") == []


async def test_what_a_runner_has_no_use_for(site: Site, probe: Probe) -> None:
    """A field that means nothing to a category is refused, not ignored."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", stdin="text")
        result = await site.result("a")
    assert (result.error_code, result.error) == ("invalid_task", "this category has no use for `stdin`")
    assert probe.begun == []


class _Broken(CommandRunner):
    def parse_args(self, command: str, args: object) -> None:
        raise KeyError(command)


@pytest.mark.parametrize("defect", ["factory", "parameters"])
async def test_a_runner_that_is_broken(site: Site, probe: Probe, defect: str) -> None:
    """A defect in a runner is its task's end, with a Result that says so, and no other task's."""

    def broken() -> CommandRunner:
        if defect == "factory":
            raise LookupError("a defect")
        return _Broken()

    probe.registry.register("broken", broken)
    async with site.worker(probe.registry):
        await site.submit("broken", "a", command="ls")
        result = await site.result("a")
        await site.submit("probe", "b")
        await site.result("b")
        await site.settled()
    assert (result.status, result.error_class, result.error_code) == ("error", "system", "internal")
    assert "the runner failed: " in result.error


# Answers


async def test_an_answer(site: Site, probe: Probe) -> None:
    """A copy of the Result goes to the reply subject, the Events to its `events` subjects; no other word does."""
    answers = await site.listen("replies.>")
    async with site.worker(probe.registry):
        await site.submit("probe", "a", args={"say": "hi"}, reply_to="replies.me")
        stored = await site.result("a")
        await answers.until(lambda: answers.on("replies.me"))
    (answer,) = answers.on("replies.me")
    assert (answer.headers or {})["Content-Type"] == "application/json"
    assert answer.data == encode(stored)
    subjects = [message.subject for message in answers.messages]
    assert subjects == [
        *("replies.me.events.received", "replies.me.events.started", "replies.me.events.finished"),
        "replies.me",
    ]


@pytest.mark.parametrize("name", ["Reply-To", "reply-to"])
async def test_an_answer_to_a_header(site: Site, probe: Probe, name: str) -> None:
    """A client that knows no field of ours names its inbox in a header."""
    inbox = site.raw.new_inbox()
    answers = await site.listen(inbox)
    async with site.worker(probe.registry):
        await site.publish("probe", {"id": "a"}, {name: inbox})
        (answer,) = await answers.count(1)
    assert decode(Result, answer.data).task_id == "a"


async def test_an_answer_where_none_may_go(site: Site, probe: Probe) -> None:
    """A task with a refused reply subject does not run, and nothing is published where it points."""
    victims = ["elsewhere", f"{site.subjects.prefix}.control.other.kill", f"{site.subjects.prefix}.tasks.command"]
    heard = await site.listen(*victims)
    async with site.worker(probe.registry):
        for number, victim in enumerate(victims):
            await site.submit("probe", f"a{number}", reply_to=victim)
        for number in range(len(victims)):
            result = await site.result(f"a{number}")
            assert (result.status, result.error_class) == ("error", "parameter")
        await site.settled()
        await site.submit("probe", "good")
        await site.result("good")
    await site.fence()
    assert heard.messages == []
    assert probe.begun == ["good"]


async def test_the_allow_list(site: Site, probe: Probe) -> None:
    """Whoever runs the worker says where it may answer."""
    answers = await site.listen("team.a", "replies.me")
    async with site.worker(probe.registry, reply_prefixes=["team"]):
        await site.submit("probe", "a", reply_to="team.a")
        await site.submit("probe", "b", reply_to="replies.me")
        assert (await site.result("b")).error_code == "invalid_task"
        await answers.until(lambda: answers.on("team.a"))
        await site.settled()
    assert answers.on("replies.me") == []


async def test_msgpack(site: Site, probe: Probe) -> None:
    """A msgpack task is answered in msgpack; the stored Result and the Events are JSON, times RFC 3339 in both."""
    answers = await site.listen("replies.>")
    async with site.worker(probe.registry):
        task = {"id": "a", "args": {"say": "hi"}, "reply_to": "replies.me"}
        await site.publish("probe", msgspec.msgpack.encode(task), {"Content-Type": "application/msgpack"})
        stored = await site.result("a")
        await answers.until(lambda: answers.on("replies.me"))
    (answer,) = answers.on("replies.me")
    assert (answer.headers or {})["Content-Type"] == "application/msgpack"
    plain = msgspec.msgpack.decode(answer.data)
    assert msgspec.convert(plain, Result) == stored
    assert all(isinstance(plain[name], str) and RFC_3339.fullmatch(plain[name]) for name in ("start_time", "end_time"))
    events = [message for message in answers.messages if ".events." in message.subject]
    assert [msgspec.json.decode(event.data)["task_id"] for event in events] == ["a"] * 3


# Time


async def test_a_task_that_is_too_late(site: Site, probe: Probe) -> None:
    """Past `expires`, as a moment or as a duration since the submission, a task does not start."""
    await prepare(site, "probe")
    await site.submit("probe", "a", expires=(utc_now() - timedelta(seconds=1)).isoformat())
    await site.submit("probe", "b", expires=0)
    await site.submit("probe", "c", expires=(utc_now() + timedelta(hours=1)).isoformat())
    await site.submit("probe", "d", expires="1h")
    async with site.worker(probe.registry):
        await site.settled()
    assert sorted(probe.begun) == ["c", "d"]
    for task_id in ("a", "b"):
        result = await site.result(task_id)
        assert (result.status, result.error_class, result.error_code) == ("timeout", "timeout", "expired")
        assert (result.start_time, result.worker != "") == (None, True)


async def test_a_time_out(site: Site, probe: Probe) -> None:
    """A task runs no longer than its `timeout`, else that of its category; more than the category allows is refused."""
    runners = {"probe": {"default_timeout": 0.05, "max_timeout": 3600}}
    async with site.worker(probe.registry, runners=runners):
        await site.submit("probe", "default", args={"hold": True})
        await site.submit("probe", "own", args={"hold": True}, timeout="60ms")
        await site.submit("probe", "refused", timeout=3601)
        default, own, refused = [await site.result(task_id) for task_id in ("default", "own", "refused")]
        await site.settled()
    assert (default.status, default.error_code, own.status) == (Status.TIMEOUT, "timeout", Status.TIMEOUT)
    assert default.termination is not None
    assert default.termination.cause is Cause.TIMEOUT
    assert "time-out of 0.05 s" in default.error
    assert "time-out of 0.06 s" in own.error
    assert (refused.status, refused.error_class, refused.error_code) == ("error", "parameter", "policy_denied")
    assert "refused" not in probe.begun


# Leases


async def test_a_lease_is_renewed(site: Site, probe: Probe) -> None:
    """A task that lasts longer than `ack_wait` stays ours: its lease is renewed, each renewal confirmed."""
    renewals = await site.listen(f"$JS.ACK.{site.subjects.tasks_stream}.>")
    async with site.worker(probe.registry, nats={"ack_wait": 0.6}):
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        await renewals.until(lambda: len(acks(renewals, b"+WPI")) >= 5)
        assert all(renewal.reply for renewal in acks(renewals, b"+WPI"))
        assert (await consumer(site, "probe"))["num_redelivered"] == 0
        probe.release()
        await site.settled()
    assert probe.begun == ["a"]
    assert len(acks(renewals, b"+ACK")) == 1


async def test_a_renewal_that_is_not_confirmed(site: Site, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A renewal that nobody confirms is said, and its task goes on."""
    async with site.worker(probe.registry, nats={"ack_wait": 0.6}):
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        await site.api(f"STREAM.DELETE.{site.subjects.tasks_stream}")

        async def said() -> bool:
            return "the lease of task a was not renewed" in caplog.text

        await eventually(said)
        probe.release()
        assert (await site.result("a")).status is Status.SUCCESS


class Silent:
    """Stands for a connection whose server confirms nothing."""

    def __init__(self) -> None:
        self.patience: list[float] = []
        self.reconnected: list[object] = []
        self.tried = anyio.Event()

    async def wait_connected(self) -> None:
        """Be there."""

    async def request(self, subject: str, payload: bytes, *, patience: float) -> None:
        """Note how long an answer is waited for."""
        self.patience.append(patience)
        self.tried.set()
        raise NoReplyError("no answer in time")


async def test_a_renewal_can_be_tried_twice() -> None:
    """However late the lease was taken, two renewals fit into `ack_wait`, though the first is never confirmed."""
    silent, ack_wait = Silent(), 0.3
    connection: Connection = silent  # type: ignore[assignment]
    leases = Leases(connection, ack_wait=ack_wait)
    leases.take("a", "$JS.ACK.1")
    async with anyio.create_task_group() as renewing:
        renewing.start_soon(leases.run)
        await silent.tried.wait()
        renewing.cancel_scope.cancel()
    assert 2 * ack_wait / RENEWALS + silent.patience[0] < ack_wait


async def test_a_delivery_of_a_task_that_runs(site: Site, probe: Probe) -> None:
    """A task that is delivered again while it runs is adopted: it runs once, and all its deliveries are acked."""
    async with site.worker(probe.registry):
        for task_id in ("a", "b", "c"):
            await site.submit("probe", task_id, args={"hold": True})
        await probe.until("a", "b", "c")
        said = await site.listen(f"$JS.ACK.{site.subjects.tasks_stream}.>")
        await site.api(f"CONSUMER.DELETE.{site.subjects.tasks_stream}.probe")

        async def delivered_again() -> bool:
            info = await consumer(site, "probe")
            return "error" not in info and int(info["num_ack_pending"]) == 3

        await eventually(delivered_again)
        probe.release()
        await site.settled()
        await said.until(lambda: {message.subject.split(".")[5] for message in acks(said, b"+ACK")} == {"1", "2", "3"})
        assert (await consumer(site, "probe"))["num_ack_pending"] == 0
    assert sorted(probe.begun) == ["a", "b", "c"]
    assert await site.results() == 3


async def test_a_task_whose_worker_died(site: Site, probe: Probe) -> None:
    """A task that nobody acknowledges comes back after `ack_wait`, and is run."""
    await prepare(site, "probe", ack_wait=0.5)
    await site.submit("probe", "a")
    await take(site, "probe")
    async with site.worker(probe.registry, nats={"ack_wait": 0.5}):
        assert (await site.result("a")).status is Status.SUCCESS
        await site.settled()
    assert probe.begun == ["a"]


async def test_a_task_whose_worker_died_before_the_ack(site: Site, probe: Probe) -> None:
    """A redelivered task that has a Result already is answered, acked and not run, though it brought no id."""
    await prepare(site, "probe", ack_wait=0.5)
    seq = await site.publish("probe", {"reply_to": "replies.me"})
    delivery = await take(site, "probe")
    moment = int(delivery.reply.split(".")[7]) // 1_000_000
    task_id = f"s{seq}-{moment}"
    result = Result(task_id=task_id, category="probe", status=Status.SUCCESS, output="done", end_time=utc_now())
    await site.raw.request(site.subjects.result(task_id), encode(result))
    answers = await site.listen("replies.me")
    async with site.worker(probe.registry, nats={"ack_wait": 0.5}):
        await site.settled()
        (answer,) = await answers.count(1)
    assert decode(Result, answer.data) == result
    assert probe.begun == []
    assert await site.results() == 1


# Sizes


@pytest.mark.parametrize("max_payload", [32 * 1024, 128 * 1024])
async def test_a_result_fits_the_server(tmp_path: Path, max_payload: int) -> None:
    """Whatever a task prints or is labelled with, its Result is stored and answered, and counts every byte."""
    with running(tmp_path, f"max_payload: {max_payload}\n") as server:
        async with open_site(server.url) as site, site.worker():
            answers = await site.listen("replies.>")
            script = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/urandom >&2"
            labels = {"x": "y" * (max_payload // 2)}
            await site.submit("command", "loud", command="/bin/sh", args=["-c", script], reply_to="replies.loud")
            await site.submit("command", "labelled", command="true", labels=labels, reply_to="replies.labelled")
            loud, labelled = await site.result("loud"), await site.result("labelled")
            await answers.until(lambda: answers.on("replies.loud") and answers.on("replies.labelled"))
            await site.settled()
    assert (loud.status, loud.streams.stdout.bytes, loud.streams.stderr.bytes) == ("success", 3_000_000, 300_000)
    assert loud.streams.stdout.truncated
    assert loud.output == "x" * (3_000_000 - loud.streams.stdout.dropped_bytes)
    assert len(encode(loud)) < max_payload
    assert (labelled.status, labelled.task_id) == ("success", "labelled")


async def test_a_task_as_large_as_may_be(site: Site) -> None:
    """A task that fills a message is run like any other."""
    async with site.worker():
        await site.publish("command", {"id": "a", "command": "wc", "args": ["-c"], "stdin": "x" * 1_000_000})
        assert (await site.result("a")).output == "1000000\n"
        await site.settled()


async def test_many_tasks(site: Site, tmp_path: Path) -> None:
    """Each of many tasks runs once and has one Result; none is left."""
    log = tmp_path / "log"
    ids = [f"t{number}" for number in range(60)]
    async with site.worker(runners={"command": {"max_concurrency": 16}}):
        for task_id in ids:
            await site.submit("command", task_id, command="/bin/sh", args=["-c", f'echo "$TASK_ID" >> {log}'])
        for task_id in ids:
            assert (await site.result(task_id)).status is Status.SUCCESS
        await site.settled()
    assert sorted(log.read_text().split()) == sorted(ids)
    assert await site.results() == len(ids)
