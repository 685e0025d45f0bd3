"""The streams, consumers and bucket we use, declared as data and made create-only.

Configurations are the JetStream API's own objects: times in nanoseconds, sizes in bytes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from schemas import Subjects

from .config import MAX_ACK_PENDING, Config
from .connection import Connection
from .errors import JetStreamError, TopologyError
from .jetstream import NOT_FOUND, api, api_once_led

OLDEST_SERVER: Final = (2, 14)

SMALLEST_PAYLOAD: Final = 24 * 1024
"""Bytes that a message may have at least: a piece of output with its headers, a Result without its output."""
MAX_DELIVER: Final = 50
"""Deliveries of one stored message: a net only, as whoever gets one a second time stores it anew."""

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND
_DAY: Final = 24 * _HOUR
_MIB: Final = 2**20
_STREAM_NAME_IN_USE: Final = 10058
_TOO_FEW_SERVERS: Final = frozenset({10005, 10074})
_CONSUMER_EXISTS: Final = frozenset({10013, 10148})


class Topology(Struct, frozen=True, kw_only=True):
    """What we need on the server. `ack_wait` is seconds; `max_ack_pending` is by category."""

    subjects: Subjects
    replicas: int = 1
    ack_wait: float = 30.0
    max_ack_pending: Mapping[str, int] = {}

    @classmethod
    def of(cls, config: Config) -> "Topology":
        """Return what a configuration asks for."""
        return cls(
            subjects=Subjects(config.subject_prefix),
            replicas=config.nats.replicas,
            ack_wait=config.nats.ack_wait,
            max_ack_pending={category: runner.max_ack_pending for category, runner in config.runners.items()},
        )

    def streams(self) -> Iterator[dict[str, Any]]:
        """Yield the configuration of each stream, the bucket's included."""
        names = self.subjects
        yield self._stream(
            names.tasks_stream,
            [names.task("*"), names.schedule("*")],
            retention="workqueue",
            allow_msg_schedules=True,
            allow_msg_ttl=True,
            duplicate_window=120 * _SECOND,
        )
        yield self._stream(names.control_stream, [names.control("*", "*")], max_age=_DAY)
        yield self._stream(names.events_stream, [names.event("*", "*")], max_age=7 * _DAY)
        yield self._stream(names.output_stream, [names.output("*", "*")], max_age=_DAY, max_bytes=1024 * _MIB)
        yield self._stream(
            names.results_stream,
            [names.result("*")],
            max_age=7 * _DAY,
            max_msgs_per_subject=1,
            discard="new",
            discard_new_per_subject=True,
            duplicate_window=600 * _SECOND,
        )
        yield self._stream(names.dead_stream, [names.dead("*")], max_age=30 * _DAY)
        yield self._stream(names.cache_stream, [names.cache("*")], max_msgs_per_subject=1, allow_msg_ttl=True)
        yield self._bucket(names.outputs_bucket)

    def consumer(self, category: str) -> dict[str, Any]:
        """Return the configuration of a category's durable pull consumer."""
        return {
            "durable_name": category,
            "name": category,
            "filter_subject": self.subjects.task(category),
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_wait * _SECOND),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_deliver": MAX_DELIVER,
            "max_ack_pending": self.max_ack_pending.get(category, MAX_ACK_PENDING),
            "max_waiting": 512,
        }

    def _stream(self, name: str, subjects: list[str], **settings: Any) -> dict[str, Any]:
        return {
            "name": name,
            "subjects": subjects,
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": self.replicas,
            "allow_direct": True,
            **settings,
        }

    def _bucket(self, bucket: str) -> dict[str, Any]:
        """Return the stream of an object store (ADR-20)."""
        return self._stream(
            f"OBJ_{bucket}",
            [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
            max_age=7 * _DAY,
            discard="new",
            allow_rollup_hdrs=True,
        )


async def check_server(connection: Connection) -> None:
    """Let the server pass, or not.

    Raises:
        TopologyError: it is too old, takes too small messages, or has no JetStream.
    """
    if connection.server_version < OLDEST_SERVER:
        have, need = (".".join(map(str, version)) for version in (connection.server_version, OLDEST_SERVER))
        raise TopologyError(f"the server {connection.server} is nats-server {have}; jetrunner needs {need} or newer")
    if connection.max_payload < SMALLEST_PAYLOAD:
        raise TopologyError(
            f"the server {connection.server} takes messages of {connection.max_payload} bytes at most; "
            f"jetrunner needs {SMALLEST_PAYLOAD}: raise its max_payload"
        )
    try:
        await api_once_led(connection, "INFO")
    except JetStreamError as error:
        raise TopologyError(f"the server {connection.server} offers no JetStream: {error.description}") from None


async def ensure_streams(connection: Connection, topology: Topology, *, create: bool = True) -> list[str]:
    """Make the streams that are missing; return what differs from the declaration in those that are there.

    Raises:
        TopologyError: a stream is missing and may not be, or cannot be, made.
    """
    differences: list[str] = []
    for wanted in topology.streams():
        name = wanted["name"]
        actual = await _stream_config(connection, name)
        if actual is None and not create:
            raise TopologyError(f"the stream {name} does not exist; make it with: jetrunner init")
        if actual is None:
            actual = await _create_stream(connection, wanted)
        differences += [f"stream {name}: {text}" for text in _differences(wanted, actual)]
    return differences


async def ensure_consumer(
    connection: Connection, topology: Topology, category: str, *, create: bool = True
) -> list[str]:
    """Make a category's consumer if it is missing; return what differs from the declaration if it is there.

    Raises:
        TopologyError: it is missing and may not be, or cannot be, made.
    """
    stream, wanted = topology.subjects.tasks_stream, topology.consumer(category)
    try:
        actual = await api(connection, f"CONSUMER.INFO.{stream}.{category}")
    except JetStreamError as error:
        if error.status != NOT_FOUND:
            raise
        if not create:
            command = f"jetrunner init --category {category}"
            raise TopologyError(
                f"the consumer {category} of {stream} does not exist; make it with: {command}"
            ) from None
        return await _create_consumer(connection, stream, wanted)
    return [f"consumer {category}: {text}" for text in _differences(wanted, actual["config"])]


async def _create_consumer(connection: Connection, stream: str, wanted: dict[str, Any]) -> list[str]:
    name = wanted["name"]
    body = {"stream_name": stream, "config": wanted, "action": "create"}
    try:
        await api(connection, f"CONSUMER.CREATE.{stream}.{name}.{wanted['filter_subject']}", body)
    except JetStreamError as error:
        if error.err_code not in _CONSUMER_EXISTS:
            raise TopologyError(f"the consumer {name} of {stream} cannot be made: {error.description}") from None
        return [f"consumer {name}: it was made by someone else just now, with other settings"]
    return []


async def _stream_config(connection: Connection, name: str) -> dict[str, Any] | None:
    try:
        return dict((await api_once_led(connection, f"STREAM.INFO.{name}"))["config"])
    except JetStreamError as error:
        if error.status != NOT_FOUND:
            raise
        return None


async def _create_stream(connection: Connection, wanted: dict[str, Any]) -> dict[str, Any]:
    name = wanted["name"]
    try:
        return dict((await api_once_led(connection, f"STREAM.CREATE.{name}", wanted))["config"])
    except JetStreamError as error:
        if error.err_code in _TOO_FEW_SERVERS:
            raise TopologyError(
                f"`nats.replicas` is {wanted['num_replicas']}, but {connection.server} is not in a cluster "
                f"with so many servers up: {error.description}"
            ) from None
        if error.err_code != _STREAM_NAME_IN_USE:
            raise TopologyError(f"the stream {name} cannot be made: {error.description}") from None
    return await _stream_config(connection, name) or wanted


def _differences(wanted: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Name the settings that are not as declared; those the declaration leaves to the server do not count."""
    return [
        f"{key} is {actual.get(key)!r}, declared {value!r}"
        for key, value in wanted.items()
        if actual.get(key, _absent(value)) != value
    ]


def _absent(value: object) -> object:
    """Return what the API means by leaving a setting of this kind out."""
    if isinstance(value, bool):
        return False
    return 0 if isinstance(value, int) else None
