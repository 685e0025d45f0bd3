"""What spans and metrics say of a task, in the words of the OpenTelemetry semantic conventions 1.44, and our own. Pure.

`messaging.*`, `process.*`, `http.*`, `url.*`, `container.*`, `server.*` and `error.type` are theirs, `task.*` ours.
`error.type` is the Result's `error_code`.
"""

import functools
import time
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final
from urllib.parse import urlsplit

from consumer.request import TaskRequest
from consumer.settle import Again, Finish, Settlement, StandIn
from schemas import Result, Status

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM: Final = "nats"

Attributes = dict[str, str | int | float | bool]

_MAX_SENTENCE: Final = 1024
_MAX_LABELS: Final = 16
_MAX_LABEL: Final = 256
_TOKENS: Final = 9
_LINES: Final = 20
_MAX_TAIL: Final = 1024
_ENDED_WELL: Final = frozenset({Status.SUCCESS, Status.CANCELED})


@functools.lru_cache(maxsize=256)
def operation(name: str, type_: str, destination: str, told_by: str = "name") -> Mapping[str, str]:
    """Return what every messaging span says, for the sampler to decide by; destinations are few."""
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": type_,
        f"messaging.destination.{told_by}": destination,
    }


def publication(template: str, task_id: str) -> Attributes:
    """Return what a publication's span says; a subject with an id in it is told by its template alone."""
    kind = "template" if "*" in template else "name"
    return {**operation("publish", "send", template, kind), "messaging.message.id": task_id, "task.id": task_id}


def delivery(request: TaskRequest, worker: str) -> Attributes:
    """Return what is known of a delivery at its start."""
    labels = [*request.task.labels.items()][:_MAX_LABELS]
    return {
        **operation("process", "process", request.subject),
        "messaging.message.id": request.task_id,
        "messaging.consumer.group.name": request.category,
        "messaging.client.id": worker,
        "messaging.nats.stream": _stream(request.delivery),
        "messaging.nats.sequence": request.position.stream_seq,
        "messaging.nats.delivery_count": request.position.deliveries,
        "task.id": request.task_id,
        "task.category": request.category,
        "task.attempt": request.attempt,
        "task.redeliveries": request.redeliveries,
        "task.queue_wait_ms": round(queue_wait(request) * 1000),
        **{f"task.label.{name[:_MAX_LABEL]}": value[:_MAX_LABEL] for name, value in labels},
    }


def _stream(delivery: str) -> str:
    """Return the stream that an ack subject names (ADR-15 and its second form, which adds domain and account)."""
    tokens = delivery.split(".")
    return tokens[4] if len(tokens) > _TOKENS else tokens[2]


def queue_wait(request: TaskRequest) -> float:
    """Return the seconds since the server has stored the task's message."""
    return max(time.time_ns() - request.position.nanoseconds, 0) / 1e9


def run(request: TaskRequest) -> Attributes:
    """Return what is known of a run before it starts."""
    attributes: Attributes = {"task.id": request.task_id, "task.category": request.category}
    if request.category == "command" and request.task.command:
        attributes["process.executable.name"] = PurePath(request.task.command).name
    return attributes


def outcome(result: Result) -> Attributes:
    """Return how a run has ended."""
    attributes: Attributes = {"task.status": result.status}
    if result.exit_code is not None:
        attributes["process.exit.code"] = result.exit_code
    if (http := result.http) is not None:
        server = urlsplit(http.url)
        attributes |= {"http.response.status_code": http.status_code, "server.address": server.hostname or ""}
        attributes["url.scheme"] = server.scheme
    if (docker := result.docker) is not None:
        attributes |= {"container.id": docker.container_id, "container.image.name": docker.image}
    if (error := error_type(result)) is not None:
        attributes["error.type"] = error
    return attributes


def settled(result: Result, settlement: Settlement) -> Attributes:
    """Return how an attempt has ended, and what becomes of its task."""
    attributes: Attributes = {**outcome(result), "task.will_retry": isinstance(settlement, Again)}
    if result.cached:
        attributes["task.cached"] = True
    return attributes


def error_type(result: Result) -> str | None:
    """Return what an error's kind is called; None if there was none: a stop is no error."""
    return None if result.status in _ENDED_WELL else result.error_code or result.status


def sentence(request: TaskRequest, result: Result, settlement: Settlement) -> str:
    """Say in one sentence what went wrong, and what comes next."""
    error = " ".join(result.error.split()).rstrip(".") or f"the task ended with {result.status}"
    match settlement:
        case Again(delay=delay, reason=reason):
            attempts = f"attempt {request.attempt}/{request.task.retry.max_attempts}"
            after = f"; {reason} in {delay:.3g} s ({attempts})"
        case Finish(buried=True):
            after = "; given up"
        case StandIn():
            after = "; its fallback stands in"
        case _:
            after = ""
    return error[: _MAX_SENTENCE - len(after)] + after


def stderr_tail(result: Result) -> str:
    """Return the last lines that a task wrote to stderr, 1024 characters at most."""
    if result.streams.stderr.encoding != "utf-8":
        return ""
    return "\n".join(result.stderr.splitlines()[-_LINES:])[-_MAX_TAIL:]
