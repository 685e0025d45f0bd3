"""The NATS micro service `jetrunner`: request and reply for each category, discovery and statistics (ADR-32).

A request's task goes the way of all tasks, through the stream. Its Result comes to the requester from whoever runs it,
not through us, so our end in the meantime loses nothing. Whether a requester's address is allowed is for the worker
that reads the task to say, as with any other.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final
from uuid import uuid4

import msgspec
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointStats
from nats.micro.service import Service as MicroService

from schemas import utc_now

from .errors import JetStreamError
from .jetstream import api, publish
from .message import header
from .overview import SERVICE, CategoryOverview, Overview
from .request import REQUEST_REPLY
from .services import Services

QUEUE: Final = "run"
_STOP_WITHIN: Final = 1.0
"""Seconds: a server that is away does not keep us."""
_MAX_RUNNING: Final = 100
"""Tasks of a category that the statistics name."""
_FORWARDED: Final = ("Content-Type", "Reply-To", "traceparent", "tracestate", "baggage")

logger = logging.getLogger(__name__)


class Service:
    """Takes tasks as requests, for the categories of one worker, and tells where the worker is."""

    def __init__(self, services: Services, categories: Sequence[str], overview: Overview) -> None:
        self._connection = services.connection
        self._subjects = services.subjects
        self._categories = categories
        self._tasks = services.tasks
        self._overview = overview
        self._metadata = {
            "worker": services.worker,
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "started": utc_now().isoformat(),
            "prefix": services.subjects.prefix,
        }
        self._service: MicroService | None = None

    async def start(self) -> None:
        """Serve, with this client and those that replace it; return once requests would reach us."""
        await self._connection.attach(self._serve)
        try:
            await api(self._connection, "INFO")  # the server has our subscriptions before it answers
        except JetStreamError as error:
            logger.debug("the service may not be known yet: %s", error)

    async def stop(self) -> None:
        """Take no more requests; go on telling where the worker is, as long as the connection lasts."""
        service, self._service = self._service, None
        self._categories = ()
        if service is None:
            return
        stopping = asyncio.ensure_future(_close_endpoints(service))
        stopping.add_done_callback(_note)
        await asyncio.wait({stopping}, timeout=_STOP_WITHIN)

    async def _serve(self, client: Client) -> None:
        if not self._categories:
            return
        self._service = await add_service(
            client,
            name=SERVICE,
            version=version("jetrunner"),
            description="runs tasks",
            metadata=self._metadata,
            stats_handler=self._describe,
        )
        for category in self._categories:
            await self._service.add_endpoint(
                name=f"run-{category}",
                subject=self._subjects.run(category),
                queue_group=QUEUE,
                handler=self._accept,
                metadata={"category": category},
            )

    def _describe(self, endpoint: EndpointStats) -> Any:
        """Return what the statistics say of a category."""
        overview = self._overview()
        category = self._subjects.last_token(endpoint.subject)
        running = sorted((task for task in overview.running if task.category == category), key=lambda task: task.since)
        described = CategoryOverview(
            category=category,
            slots=overview.slots.get(category, 0),
            busy=len(running),
            running=tuple(running[:_MAX_RUNNING]),
            obstacle=overview.obstacles.get(category),
            draining=overview.draining,
            server=self._connection.server,
        )
        return msgspec.to_builtins(described)

    async def _accept(self, request: Request) -> None:
        self._tasks.start_soon(self._submit, request)

    async def _submit(self, request: Request) -> None:
        headers = {name: value for name in _FORWARDED if (value := header(request.headers, name)) is not None}
        headers[REQUEST_REPLY] = request._msg.reply  # noqa: SLF001 - the API hides where the answer is awaited
        message_id = header(request.headers, "Nats-Msg-Id") or uuid4().hex
        subject = self._subjects.task(self._subjects.last_token(request.subject))
        try:
            await publish(self._connection, subject, request.data, message_id=message_id, headers=headers)
        except (JetStreamError, ValueError) as error:
            logger.warning("a request on %s was not taken: %s", request.subject, error)
            await request.respond_error("500", f"the task was not taken: {error}")


async def _close_endpoints(service: MicroService) -> None:
    """End the requests, and not the discovery, for which nats-py has no way."""
    for endpoint in service._endpoints:  # noqa: SLF001 - see above
        if endpoint._subscription is not None:  # noqa: SLF001 - see above
            await endpoint._subscription.unsubscribe()  # noqa: SLF001 - see above


def _note(stopping: "asyncio.Future[None]") -> None:
    """Take note of a failure: without a connection, nobody can reach us anyway."""
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        logger.debug("the service was not stopped: %s", error)
