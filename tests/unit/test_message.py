"""What a message says of itself."""

from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.msg import Msg

from consumer.message import Position, header

FIRST_FORM = "$JS.ACK.P_TASKS.command.3.1507.42.1795514400123456789.7"
SECOND_FORM = "$JS.ACK.hub.ACCOUNT.P_TASKS.command.3.1507.42.1795514400123456789.7.token"
WITHOUT_TOKEN = "$JS.ACK._.ACCOUNT.P_TASKS.command.3.1507.42.1795514400123456789.7"


def message(reply: str) -> Msg:
    """Return a message as a pull brings it."""
    client: Any = None
    return Msg(_client=client, subject="p.tasks.command", reply=reply)


@pytest.mark.parametrize("reply", [FIRST_FORM, SECOND_FORM, WITHOUT_TOKEN])
def test_position(reply: str) -> None:
    """Both forms of the ack subject are read, with and without domain and account (ADR-15)."""
    assert Position.of(message(reply)) == Position(
        stream_seq=1507, consumer_seq=42, deliveries=3, nanoseconds=1795514400123456789, pending=7
    )


def test_a_derived_id_is_made_of_sequence_and_milliseconds() -> None:
    """A task without an id is named by its place in the stream, and the Unix milliseconds of its storage."""
    assert Position.of(message(FIRST_FORM)).derived_id == "s1507-1795514400123"


def test_stored() -> None:
    """The time of storage is in UTC."""
    stored = Position(stream_seq=1, consumer_seq=1, deliveries=1, nanoseconds=1_500_000_000, pending=0).stored
    assert stored == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Reply-To", "reply-to", "REPLY-TO"])
def test_a_header_is_found_in_any_case(name: str) -> None:
    """Not every client writes headers as we do."""
    assert header({"Other": "1", name: "x"}, "Reply-To") == "x"


def test_the_first_header_named_wins() -> None:
    """An exact name goes before one in another case, the first name before the second."""
    assert header({"reply-to": "a", "Reply-To": "b"}, "Reply-To") == "b"
    assert header({"reply_to": "a", "Reply-To": "b"}, "Reply-To", "reply_to") == "b"


@pytest.mark.parametrize("headers", [None, {}, {"Other": "x"}])
def test_no_such_header(headers: dict[str, str] | None) -> None:
    """A header that is not there is None."""
    assert header(headers, "Reply-To", "reply_to") is None
