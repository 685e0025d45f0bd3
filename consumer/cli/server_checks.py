"""Checks of the server: can it be reached, is it new enough, has it what we need."""

import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import anyio
import msgspec
from msgspec import structs

from consumer.config import Config
from consumer.connection import Connection, NoReplyError, NoRespondersError, connect
from consumer.errors import ConnectError, JetrunnerError, JetStreamError
from consumer.jetstream import NOT_FOUND, api
from consumer.topology import OLDEST_SERVER, Topology
from schemas import Subjects

from .check import Check, State
from .declared import Declared, survey
from .session import find_server

CONNECT_TIMEOUT: Final = 3.0
"""Seconds that the connection may take."""
ANSWER_TIMEOUT: Final = 4.0
"""Seconds that all questions to the server may take together."""

_SMALLEST_PAYLOAD: Final = 2**20
_SLOW: Final = 0.25
_SKEWED: Final = 1.0
_BADLY_SKEWED: Final = 30.0
_NEARLY_FULL: Final = 0.9
_ROUNDS: Final = 5


async def check_server(config: Config, categories: Iterable[str], found: list[Check]) -> bool:
    """Append what is found to `found`; tell whether there is a server."""
    try:
        options = find_server(config)
    except ConnectError as error:
        found.append(Check("server", "failed", str(error)))
        return False
    try:
        async with connect(structs.replace(options, timeout=min(options.timeout, CONNECT_TIMEOUT))) as connection:
            found.append(_version(connection))
            with anyio.move_on_after(ANSWER_TIMEOUT) as scope:
                await _ask(connection, config, categories, found)
            if scope.cancelled_caught:
                advice = "look at its load and log"
                found.append(Check("answers", "failed", f"it took longer than {ANSWER_TIMEOUT:g} s to answer", advice))
    except ConnectError as error:
        found.append(Check("server", "failed", str(error), "start it, or check --server, NATS_URL and the context"))
        return False
    return True


def _version(connection: Connection) -> Check:
    have, need = (".".join(map(str, version)) for version in (connection.server_version, OLDEST_SERVER))
    detail = f"{connection.server}, nats-server {have}"
    if connection.server_version < OLDEST_SERVER:
        return Check("server", "failed", detail, f"upgrade it to {need} or newer")
    return Check("server", "ok", detail)


async def _ask(connection: Connection, config: Config, categories: Iterable[str], found: list[Check]) -> None:
    found.append(_payload(connection))
    found.append(await _attempt("round trip", partial(_round_trip, connection)))
    jetstream = await _attempt("jetstream", partial(_jetstream, connection))
    found.append(jetstream)
    if jetstream.state != "failed":
        found.append(await _attempt("streams", partial(_declared, connection, config, categories)))
        found.append(await _attempt("clock", partial(_clock, connection, Subjects(config.subject_prefix))))


async def _attempt(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await check()
    except (JetrunnerError, NoReplyError) as error:
        return Check(name, "failed", str(error), "look at the server's log")


def _payload(connection: Connection) -> Check:
    detail = f"max_payload is {_size(connection.max_payload)}"
    if connection.max_payload < _SMALLEST_PAYLOAD:
        advice = f"large Results will be cut: raise it to {_size(_SMALLEST_PAYLOAD)}"
        return Check("payload", "warning", detail, advice)
    return Check("payload", "ok", detail)


async def _round_trip(connection: Connection) -> Check:
    fastest = min([await _ping(connection) for _ in range(_ROUNDS)])
    detail = f"{fastest * 1000:.1f} ms"
    if fastest > _SLOW:
        return Check("round trip", "warning", detail, "every step of a task takes one: work nearer to the server")
    return Check("round trip", "ok", detail)


async def _ping(connection: Connection) -> float:
    """Return the seconds that the server needs to say that nobody listens on a fresh subject."""
    begin = time.perf_counter()
    with suppress(NoRespondersError):
        await connection.request(connection.new_inbox())
    return time.perf_counter() - begin


async def _jetstream(connection: Connection) -> Check:
    try:
        account = await api(connection, "INFO")
    except JetStreamError as error:
        return Check(
            "jetstream", "failed", error.description, "enable it: nats-server -js, or jetstream {} in its configuration"
        )
    parts = [_usage(account, kind) for kind in ("storage", "memory", "streams", "consumers")]
    detail = ", ".join(text for text, _ in parts)
    if any(nearly_full for _, nearly_full in parts):
        return Check("jetstream", "warning", detail, "the account is nearly full: raise its limits, or purge")
    return Check("jetstream", "ok", detail)


def _usage(account: dict[str, Any], kind: str) -> tuple[str, bool]:
    """Return how much of an account's limit is used (ADR-2), and whether that is nearly all."""
    shown = _size if kind in {"storage", "memory"} else str
    used, limit = int(account.get(kind, 0)), int(account.get("limits", {}).get(f"max_{kind}", -1))
    if limit < 0:
        return f"{kind} {shown(used)}", False
    return f"{kind} {shown(used)} of {shown(limit)}", limit > 0 and used > _NEARLY_FULL * limit


async def _declared(connection: Connection, config: Config, categories: Iterable[str]) -> Check:
    surveyed = survey(connection, Topology.of(config), categories, create=False)
    return _compare([each async for each in surveyed], config)


def _compare(declared: list[Declared], config: Config) -> Check:
    differing = [f"{each.kind} {each.name}: {text}" for each in declared for text in each.differences]
    missing = [f"{each.kind} {each.name}" for each in declared if each.state == "missing"]
    if differing:
        return Check("streams", "failed", "; ".join(differing), "change them with the nats command, or the declaration")
    if missing:
        state: State = "warning" if config.manage_streams else "failed"
        by_whom = "the first worker makes them, or make" if config.manage_streams else "make"
        return Check("streams", state, f"missing: {', '.join(missing)}", f"{by_whom} them with: jetrunner init")
    return Check("streams", "ok", f"{len(declared)} streams, buckets and consumers are as declared")


async def _clock(connection: Connection, subjects: Subjects) -> Check:
    before = datetime.now(UTC)
    try:
        answer = await api(connection, f"STREAM.INFO.{subjects.tasks_stream}")
    except JetStreamError as error:
        if error.status != NOT_FOUND:
            raise
        return Check(
            "clock", "warning", "cannot be compared: there is no stream yet", "look again after: jetrunner init"
        )
    return compare_clocks(msgspec.convert(answer["ts"], datetime), before, datetime.now(UTC))


def compare_clocks(server: datetime, before: datetime, after: datetime) -> Check:
    """Judge the server's clock, read at a moment between `before` and `after` of ours."""
    middle, doubt = before + (after - before) / 2, (after - before).total_seconds() / 2
    skew = (server - middle).total_seconds()
    where = "ahead of" if skew > 0 else "behind"
    detail = f"the server's is {abs(skew):.3f} s {where} ours (± {doubt:.3f} s)"
    if abs(skew) - doubt <= _SKEWED:
        return Check("clock", "ok", detail)
    state: State = "failed" if abs(skew) - doubt > _BADLY_SKEWED else "warning"
    return Check("clock", state, detail, "`expires`, delays and schedules go by both: synchronise them (NTP)")


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:  # noqa: PLR2004 - the step of the units
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"
