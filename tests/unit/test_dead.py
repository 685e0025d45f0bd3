"""Dead letters: what is kept of a task that was given up."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from consumer.dead import DeadLetters
from consumer.request import TaskRequest, read_request
from consumer.wire import message_size
from schemas import Result, Status, Subjects

pytestmark = pytest.mark.anyio

SUBJECTS = Subjects("p")
NOBODY: Any = None
"""A client that no message here needs."""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


class Store:
    """Stands for the connection: stores whatever a server would take."""

    def __init__(self, max_payload: int = 2**20) -> None:
        self.max_payload = max_payload
        self.stored: list[Msg] = []

    async def wait_connected(self) -> None:
        """Be connected."""

    async def request(self, subject: str, payload: bytes, *, headers: dict[str, str], patience: float) -> Msg:
        """Take a message that is not too large."""
        assert message_size(payload, headers) <= self.max_payload
        self.stored.append(Msg(_client=NOBODY, subject=subject, data=payload, headers=headers))
        return Msg(_client=NOBODY, data=b'{"stream":"P_DEAD","seq":1}')


def request(payload: bytes, headers: dict[str, str] | None = None) -> TaskRequest:
    """Return a task as it came."""
    reply = "$JS.ACK.P_TASKS.command.1.7.7.1795514400123456789.0"
    message = Msg(_client=NOBODY, subject="p.tasks.command", reply=reply, data=payload, headers=headers)
    return read_request(message, SUBJECTS, ())


async def keep(store: Any, given_up: TaskRequest, error: str = "the task is bad") -> Msg:
    """Keep a task and return the dead letter."""
    result = Result(
        task_id=given_up.task_id,
        category="command",
        status=Status.ERROR,
        error=error,
        error_code="invalid_task",
        end_time=datetime(2030, 1, 1, tzinfo=UTC),
    )
    await DeadLetters(store, SUBJECTS).keep(given_up, result)
    letter: Msg = store.stored[-1]
    return letter


async def test_what_a_dead_letter_holds() -> None:
    """The payload is the original task; the headers say what happened to it and what it came with."""
    headers = {"Reply-To": "replies.me", "Jetrunner-Attempt": "2", "Jetrunner-Redeliveries": "1"}
    letter = await keep(Store(), request(b'{"oops":1}', headers))
    assert (letter.subject, letter.data) == ("p.dead.command", b'{"oops":1}')
    assert letter.headers == {
        "Jetrunner-Task-Id": "s7-1795514400123",
        "Jetrunner-Reason": "the task is bad",
        "Jetrunner-Error-Code": "invalid_task",
        "Jetrunner-Attempt": "2",
        "Jetrunner-Redeliveries": "1",
        "Jetrunner-Subject": "p.tasks.command",
        "Jetrunner-Headers": msgspec.json.encode(headers).decode(),
        "Nats-Msg-Id": "dead-s7-1795514400123",
    }


async def test_the_reason_is_one_line() -> None:
    """A header holds no line break, and not the whole story."""
    letter = await keep(Store(), request(b"{"), "first\r\nsecond\n" + "x" * 5000)
    assert letter.headers is not None
    reason = letter.headers["Jetrunner-Reason"]
    assert reason.startswith("first second xxx")
    assert len(reason) <= 1024


@pytest.mark.parametrize("spare", [0, 100, 500, 1000, 1500, 3000])
async def test_a_task_that_leaves_no_room(spare: int) -> None:
    """A task as large as a message may be is kept as far as it goes; what is missing is said."""
    store, payload = Store(64 * 1024), b"x" * (64 * 1024 - spare)
    letter = await keep(store, request(payload, {"Reply-To": "replies.me"}))
    assert letter.headers is not None
    assert payload.startswith(letter.data)
    whole = len(letter.data) == len(payload)
    assert whole == ("Jetrunner-Truncated" not in letter.headers)
    assert whole or letter.headers["Jetrunner-Truncated"] == str(len(payload))
    assert len(letter.data) > 60 * 1024


async def test_headers_that_leave_no_room() -> None:
    """Headers of the task's own that are too many are left out, not the task."""
    letter = await keep(Store(), request(b"{}", {f"X-{number}": "y" * 1000 for number in range(40)}))
    assert letter.headers is not None
    assert (letter.data, letter.headers["Jetrunner-Headers"]) == (b"{}", "{}")
