"""The bare loop: what a person would write with nats-py and asyncio, and no more.

    python -m bench.bare URL PREFIX CONCURRENCY

Pulls tasks, runs each as a subprocess, stores its Result and acknowledges it. No lease, no events, no live output, no
limits, no stop.
"""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas import Result, Status, Subjects, Task, decode, encode

from .running import run_bare, use_pidfd_watcher

READY: Final = b"ready\n"
CATEGORY: Final = "command"

_PULL: Final = '{"batch":%d,"expires":600000000000}'


class BareLoop:
    """One category's tasks, `concurrency` at once."""

    def __init__(self, client: Client, subjects: Subjects, concurrency: int) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._subjects = subjects
        self._concurrency = concurrency
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue()
        self._inbox = client.new_inbox()
        self._free = 0

    async def run(self) -> None:
        """Work until killed."""
        await self._client.subscribe(self._inbox, cb=self._waiting.put)
        await self._pull(self._concurrency)
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._concurrency):
                slots.create_task(self._fill_slot())
            await self._client.flush()
            sys.stdout.buffer.write(READY)
            sys.stdout.buffer.flush()

    async def _fill_slot(self) -> None:
        while True:
            await self._handle(await self._waiting.get())
            self._free += 1
            if self._free >= self._concurrency // 4:
                free, self._free = self._free, 0
                await self._pull(free)

    async def _handle(self, message: Msg) -> None:
        task = decode(Task, message.data)
        task_id = task.id or ""
        stdout, stderr = await run_bare(task.command)
        result = Result(
            task_id=task_id,
            category=CATEGORY,
            status=Status.SUCCESS,
            output=stdout.decode(),
            stderr=stderr.decode(),
            end_time=datetime.now(UTC),
            exit_code=0,
        )
        await self._jetstream.publish(
            self._subjects.result(task_id), encode(result), headers={"Nats-Msg-Id": f"result-{task_id}"}
        )
        await message.ack()

    async def _pull(self, batch: int) -> None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._subjects.tasks_stream}.{CATEGORY}"
        await self._client.publish(subject, (_PULL % batch).encode(), reply=self._inbox)


async def main(url: str, prefix: str, concurrency: int) -> None:
    """Connect and work."""
    client = await nats.connect(url)
    await BareLoop(client, Subjects(prefix), concurrency).run()


if __name__ == "__main__":
    use_pidfd_watcher()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
