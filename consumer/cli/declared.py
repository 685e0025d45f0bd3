"""The streams, bucket and consumers that we declare, held against those that the server has."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Literal

from msgspec import Struct

from consumer.connection import Connection
from consumer.errors import JetStreamError
from consumer.jetstream import NOT_FOUND, api
from consumer.topology import Topology, ensure_consumer, ensure_streams

_BUCKET_PREFIX = "OBJ_"


class Declared(Struct, frozen=True, kw_only=True):
    """One thing that we declare, and how it is on the server."""

    kind: Literal["stream", "bucket", "consumer"]
    name: str
    state: Literal["created", "exists", "differs", "missing"]
    differences: tuple[str, ...] = ()


class _OneStream(Topology, frozen=True, kw_only=True):
    """A topology of a single stream, so that each can be told of on its own."""

    name: str

    def streams(self) -> Iterator[dict[str, Any]]:
        return (config for config in super().streams() if config["name"] == self.name)


async def survey(
    connection: Connection, topology: Topology, categories: Iterable[str], *, create: bool
) -> AsyncIterator[Declared]:
    """Yield each stream, the bucket and each consumer; those that are missing are made first, if `create` says so.

    Raises:
        TopologyError: one of them cannot be made.
        JetStreamError: the server does not answer.
    """
    for stream in [config["name"] for config in topology.streams()]:
        yield await _stream(connection, topology, stream, create=create)
    for category in categories:
        yield await _consumer(connection, topology, category, create=create)


async def _stream(connection: Connection, topology: Topology, name: str, *, create: bool) -> Declared:
    is_bucket = name.startswith(_BUCKET_PREFIX)
    kind: Literal["bucket", "stream"] = "bucket" if is_bucket else "stream"
    shown = name.removeprefix(_BUCKET_PREFIX) if is_bucket else name
    existed = await _exists(connection, f"STREAM.INFO.{name}")
    if not existed and not create:
        return Declared(kind=kind, name=shown, state="missing")
    one = _OneStream(name=name, subjects=topology.subjects, replicas=topology.replicas, ack_wait=topology.ack_wait)
    differences = await ensure_streams(connection, one, create=create)
    return Declared(
        kind=kind,
        name=shown,
        state=_state(differences, existed=existed),
        differences=tuple(text.removeprefix(f"stream {name}: ") for text in differences),
    )


async def _consumer(connection: Connection, topology: Topology, category: str, *, create: bool) -> Declared:
    existed = await _exists(connection, f"CONSUMER.INFO.{topology.subjects.tasks_stream}.{category}")
    if not existed and not create:
        return Declared(kind="consumer", name=category, state="missing")
    differences = await ensure_consumer(connection, topology, category, create=create)
    return Declared(
        kind="consumer",
        name=category,
        state=_state(differences, existed=existed),
        differences=tuple(text.removeprefix(f"consumer {category}: ") for text in differences),
    )


async def _exists(connection: Connection, info: str) -> bool:
    try:
        await api(connection, info)
    except JetStreamError as error:
        if error.status != NOT_FOUND:
            raise
        return False
    return True


def _state(differences: list[str], *, existed: bool) -> Literal["created", "exists", "differs"]:
    if differences:
        return "differs"
    return "exists" if existed else "created"
