"""The tasks in a worker's hands, when one comes back while it is still being let go of."""

from typing import Any, cast

import anyio
import pytest
from nats.aio.msg import Msg

from consumer.claims import Question
from consumer.config import Config
from consumer.connection import Connection
from consumer.deliveries import Deliveries
from consumer.lease import Leases
from consumer.message import rebuilt
from consumer.request import Counts, TaskRequest
from consumer.services import Services
from consumer.telemetry import SILENT
from schemas import Result, Subjects

pytestmark = pytest.mark.anyio

SUBJECTS = Subjects("p")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def delivery(seq: int) -> str:
    """Return the ack subject of a message that was delivered twice."""
    return f"$JS.ACK.TASKS.probe.2.{seq}.9.1700000000000000000.0"


def message(seq: int, redeliveries: int = 0) -> Msg:
    counts = Counts(redeliveries=redeliveries).headers()
    return rebuilt(SUBJECTS.task("probe"), delivery(seq), b'{"id":"a","max_redeliveries":1}', counts)


class Server:
    """Knows no Result, finds no owner, and gives back what is put back before it says that it has it."""

    def __init__(self, *, gives_back: int) -> None:
        self.acked: list[str] = []
        self.concluded: list[tuple[int, str]] = []
        self.answers: list[object] = []
        self.gives_back = gives_back
        self.leases = Leases(cast("Connection", self), ack_wait=30)
        services: dict[str, Any] = dict.fromkeys(Services.__struct_fields__, self)
        services |= {"config": Config(), "subjects": SUBJECTS, "worker": "me", "leases": self.leases}
        services |= {"telemetry": SILENT}
        self.deliveries = Deliveries(Services(**services))

    async def load(self, task_id: str, **_: object) -> None:
        return

    async def find(self, task_id: str, **_: object) -> None:
        return

    def publish(self, *_: object) -> None:
        return

    def fits(self, request: TaskRequest) -> bool:
        return True

    def send(self, subject: str, payload: bytes) -> None:
        self.acked.append(subject)

    async def put(self, request: TaskRequest, counts: Counts, *, delay: float) -> None:
        self.answers.append(self.deliveries.answer("a", Question(worker="other", deliveries=(delivery(2),))))
        self._tasks.start_soon(self.deliveries.handle, message(self.gives_back, counts.redeliveries))
        await anyio.wait_all_tasks_blocked()

    async def conclude(self, request: TaskRequest, result: Result, **_: object) -> None:
        self.concluded.append((request.position.stream_seq, result.error_code))

    async def give(self, first: Msg) -> None:
        """Deliver a message, and return when the worker is idle."""
        async with anyio.create_task_group() as self._tasks:
            await self.deliveries.handle(first)
            await self.deliveries.wait_idle()


async def test_a_task_that_comes_back_before_we_know_that_it_is_stored() -> None:
    """It is taken as what it is, the next run of the task, by us or whoever gets it; not acked with the last one."""
    server = Server(gives_back=2)
    await server.give(message(1))
    assert server.answers == [None]
    assert server.concluded == [(2, "worker_lost")]
    assert server.acked == [delivery(1), delivery(2)]


async def test_a_task_that_is_delivered_again_while_it_is_put_back() -> None:
    """The message that is being put back is acked once, whenever it comes again."""
    server = Server(gives_back=1)
    await server.give(message(1))
    assert server.concluded == []
    assert server.acked == [delivery(1)]
