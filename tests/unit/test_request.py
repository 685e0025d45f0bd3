"""Reading a task's message: whom it names, what it asks for, or what is wrong with it."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from consumer.request import Counts, TaskRequest, read_request
from schemas import ContentType, Subjects, Task
from schemas.subjects import DEFAULT_REPLY_PREFIXES

SUBJECTS = Subjects("p")
DERIVED = "s1507-1795514400123"


def read(
    payload: object = b"{}",
    headers: dict[str, str] | None = None,
    *,
    category: str = "command",
    deliveries: int = 1,
) -> TaskRequest:
    """Read a message with this payload, bytes or a JSON value."""
    client: Any = None
    message = Msg(
        _client=client,
        subject=SUBJECTS.task(category),
        reply=f"$JS.ACK.P_TASKS.{category}.{deliveries}.1507.42.1795514400123456789.7",
        data=payload if isinstance(payload, bytes) else msgspec.json.encode(payload),
        headers=headers,
    )
    return read_request(message, SUBJECTS, DEFAULT_REPLY_PREFIXES)


def complaint(request: TaskRequest) -> str:
    """Return what is wrong with a request."""
    assert request.error is not None
    assert (request.error.status, request.error.error_class, request.error.code) == (
        "error",
        "parameter",
        "invalid_task",
    )
    return str(request.error)


def test_a_plain_task() -> None:
    """The category is the subject's last token; what the message does not say is as declared."""
    request = read({"command": "/bin/ls", "args": '["-la", "/tmp"]'})
    assert request.error is None
    assert request.task == Task(id=DERIVED, category="command", command="/bin/ls", args='["-la", "/tmp"]')
    assert (request.task_id, request.named, request.category) == (DERIVED, False, "command")
    assert (request.attempt, request.redeliveries, request.reply_to) == (1, 0, ())
    assert request.content_type is ContentType.JSON


@pytest.mark.parametrize(
    ("payload", "headers", "task_id", "named"),
    [
        ({"id": "given"}, None, "given", True),
        ({"id": "given"}, {"Nats-Msg-Id": "header"}, "given", True),
        ({}, {"Nats-Msg-Id": "header"}, "header", True),
        ({}, {"nats-msg-id": "header"}, "header", True),
        ({}, {"Nats-Msg-Id": "no token"}, DERIVED, False),
        ({}, {"Nats-Msg-Id": "x" * 65}, DERIVED, False),
        ({}, None, DERIVED, False),
    ],
)
def test_the_id(payload: object, headers: dict[str, str] | None, task_id: str, *, named: bool) -> None:
    """The task's own id, else the `Nats-Msg-Id` if it is a token, else one derived from its place."""
    request = read(payload, headers)
    assert request.error is None
    assert (request.task_id, request.task.id, request.named) == (task_id, task_id, named)


@pytest.mark.parametrize("task_id", ["", "a b", "a.b", "ä", "x" * 65, "a\n", 7, None])
def test_an_invalid_id(task_id: object) -> None:
    """An id that is none is refused, and the derived one stands in for it; null is none given."""
    request = read({"id": task_id})
    assert request.task_id == DERIVED
    assert (request.error is None) == (task_id is None)
    if request.error is not None:
        assert "`id`" in complaint(request)


def test_a_republished_task_keeps_its_name_and_counts() -> None:
    """Headers of ours carry what a re-publication must not lose."""
    headers = {"Jetrunner-Task-Id": "s1-1", "Jetrunner-Attempt": "3", "Jetrunner-Redeliveries": "2"}
    request = read({}, headers)
    assert (request.task_id, request.named, request.attempt, request.redeliveries) == ("s1-1", True, 3, 2)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "²", "9999999999999999999"])
def test_a_counter_that_is_none(text: str) -> None:
    """A counter that we did not write is not believed."""
    request = read({}, {"Jetrunner-Attempt": text, "Jetrunner-Redeliveries": text})
    assert (request.error, request.attempt, request.redeliveries) == (None, 1, 0)


def test_when_a_task_was_submitted() -> None:
    """A task keeps the time of its first message through every re-publication; what is no time is not believed."""
    first = read()
    assert first.submitted == first.position.stored
    again = read({}, {"Jetrunner-Submitted": "2020-01-02T03:04:05.678000+00:00"})
    assert again.submitted == datetime(2020, 1, 2, 3, 4, 5, 678000, UTC)
    for text in ("", "yesterday", "2020-01-02T03:04:05"):
        assert read({}, {"Jetrunner-Submitted": text}).submitted == first.submitted


def test_counts_as_headers() -> None:
    """What is written of the counts is read again."""
    counts = Counts(attempt=3, redeliveries=2, returns=1)
    assert read({}, counts.headers()).counts == counts
    assert read().counts == Counts()


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "the payload is empty"),
        (b"{", "the payload is not valid JSON"),
        (b"\xff\xfe", "the payload is not valid JSON"),
        (b"null", "expected `object`, got `null`"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"comand": "ls"}', "unknown field `comand`"),
        (b'{"image": "ubuntu"}', "unknown field `image`; it belongs in `args`"),
        (b'{"max_attempts": 3}', "unknown field `max_attempts`; it belongs in `retry`"),
        (b'{"command": 7}', "`command`: expected `str`, got `int`"),
        (b'{"category": "docker"}', "`category` is 'docker', but the task was published on the subject of 'command'"),
        (b'{"cwd": "/tmp\\u0000"}', "`cwd` must not be empty or contain a NUL byte"),
        (b'{"timeout": "soon"}', "`timeout`: expected a duration"),
        (b'{"expires": "tomorrow"}', "`expires`: expected an RFC 3339 time"),
    ],
)
def test_a_malformed_task(payload: bytes, sentence: str) -> None:
    """What is wrong is said in one sentence that names the field."""
    assert sentence in complaint(read(payload))


def test_an_invalid_task_keeps_what_its_result_needs() -> None:
    """Id, reply subject and labels of an invalid task are used if they are valid themselves."""
    request = read({"id": "mine", "reply_to": "replies.me", "labels": {"team": "a"}, "oops": 1})
    assert "`oops`" in complaint(request)
    assert (request.task_id, request.named) == ("mine", True)
    assert (request.reply_to, request.task.labels) == (("replies.me",), {"team": "a"})


def test_an_invalid_task_loses_what_is_invalid_too() -> None:
    """One bad field does not cost the others."""
    request = read({"id": "mine", "reply_to": 7, "labels": []})
    assert request.error is not None
    assert (request.task_id, request.reply_to, request.task.labels) == ("mine", (), {})


def test_msgpack() -> None:
    """A task may come as msgpack, if its header says so."""
    payload = msgspec.msgpack.encode({"id": "m", "command": "ls"})
    request = read(payload, {"content-type": "application/msgpack"})
    assert (request.error, request.task.command) == (None, "ls")
    assert request.content_type is ContentType.MSGPACK


def test_an_invalid_msgpack_task_is_still_known() -> None:
    """What can be read of it is read as msgpack, and its answer has that form too."""
    payload = msgspec.msgpack.encode({"id": "m", "oops": 1})
    request = read(payload, {"Content-Type": "application/msgpack"})
    assert request.error is not None
    assert (request.task_id, request.content_type) == ("m", ContentType.MSGPACK)


def test_another_content_type() -> None:
    """A form we do not know is refused by name, and read as JSON for what it is worth."""
    request = read({"id": "mine"}, {"Content-Type": "text/yaml"})
    assert "text/yaml" in complaint(request)
    assert (request.task_id, request.content_type) == ("mine", ContentType.JSON)


@pytest.mark.parametrize("name", ["Reply-To", "reply-to", "reply_to"])
def test_the_reply_header(name: str) -> None:
    """`Reply-To`, or `reply_to` as FastStream writes it, names a reply subject."""
    assert read({}, {name: "replies.me"}).reply_to == ("replies.me",)


def test_the_field_goes_before_the_header() -> None:
    """The task's own `reply_to` counts; the address of a `P.run` request is answered besides."""
    headers = {"Reply-To": "replies.header", "Jetrunner-Reply-To": "_INBOX.requester"}
    assert read({"reply_to": "replies.field"}, headers).reply_to == ("replies.field", "_INBOX.requester")


@pytest.mark.parametrize("headers", [{"Reply-To": ""}, {"Jetrunner-Reply-To": ""}])
def test_an_empty_reply_subject_is_none(headers: dict[str, str]) -> None:
    """A requester that waits nowhere, such as `nats pub p.run.command`, wants no answer."""
    request = read({"reply_to": ""}, headers)
    assert (request.error, request.reply_to) == (None, ())


@pytest.mark.parametrize("subject", ["_INBOX", "_INBOX.a.b", "_INBOX_worker.a", "replies", "replies.a"])
def test_a_reply_subject_on_the_list(subject: str) -> None:
    """Whole tokens are compared; a trailing `*` within a token stands for its rest."""
    assert read({"reply_to": subject}).reply_to == (subject,)


@pytest.mark.parametrize(
    "subject",
    [
        *("other.a", "repliesx", "replies-a.b", "_INBOXES", "_inbox.a"),
        *("replies.*", "replies.>", "*", ">", "replies..a", ".replies", "replies.", "replies.a b", "replies.\n"),
        *("$JS.API.STREAM.DELETE.P_TASKS", "$SYS.x", "p.control.x.stop", "p", "p.tasks.command"),
        f"replies.{'x' * 5000}",
    ],
)
@pytest.mark.parametrize("where", ["field", "Reply-To", "Jetrunner-Reply-To"])
def test_a_refused_reply_subject(subject: str, where: str) -> None:
    """The worker publishes nowhere that the task's sender may not, however the subject was given."""
    request = read({"reply_to": subject}) if where == "field" else read({}, {where: subject})
    assert "`reply_to`: the reply subject" in complaint(request)
    assert request.reply_to == ()


@given(payload=st.binary(), headers=st.dictionaries(st.text(), st.text()), category=st.text())
def test_no_message_makes_reading_fail(payload: bytes, headers: dict[str, str], category: str) -> None:
    """Whatever a message holds, there is a request, under a valid id."""
    client: Any = None
    message = Msg(
        _client=client,
        subject=f"p.tasks.{category}",
        reply="$JS.ACK.P_TASKS.c.1.1507.42.1795514400123456789.7",
        data=payload,
        headers=headers,
    )
    request = read_request(message, SUBJECTS, DEFAULT_REPLY_PREFIXES)
    assert request.task_id == DERIVED or request.named
