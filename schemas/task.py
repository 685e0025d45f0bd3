"""Task: what a person publishes, and its parts."""

import base64
import binascii
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from .quantity import Duration, Expiry, Size

MAX_RECURRING_ID: Final = 50
"""Characters: each firing of a schedule appends its time to the id."""
MAX_NESTING: Final = 100
"""Levels of lists and objects in `args`: a task that can be read can then be published again from any stack."""
MAX_FALLBACKS: Final = 10
"""Fallbacks of fallbacks, for the same reason."""

NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"  # `$` alone would let a trailing newline through
CONDITION_PATTERN: Final = r"^([a-z_]+|exit:[0-9]{1,3}|http:([1-5][0-9]{2}|[1-5]xx))$(?!\n)"
PATTERNS: Final = {
    NAME_PATTERN: "1 to 64 characters of A-Z a-z 0-9 _ -",
    CONDITION_PATTERN: 'a status, error class or error code, "exit:<n>", "http:<n>" or "http:5xx"',
}
"""What each pattern asks for, in words."""

TaskId = Annotated[str, Meta(pattern=NAME_PATTERN, description=PATTERNS[NAME_PATTERN])]
Category = Annotated[str, Meta(pattern=NAME_PATTERN, description=PATTERNS[NAME_PATTERN])]
Args = str | list[Any] | dict[str, Any]
"""A runner's parameters: argv, its parameter object, or either as JSON in a string; `""` for none."""
RetryCondition = Annotated[str, Meta(pattern=CONDITION_PATTERN, description=PATTERNS[CONDITION_PATTERN])]

_SCHEDULE: Final = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|\S+( \S+){4,5}")


class Base64(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that JSON cannot hold, as base64 (RFC 4648, padded)."""

    base64: str

    def __post_init__(self) -> None:
        try:
            self.data()
        except (binascii.Error, ValueError):
            raise ValueError("expected padded base64 text") from None

    def data(self) -> bytes:
        """Return the bytes."""
        return base64.b64decode(self.base64, validate=True)


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task may use at most; None leaves it to the category."""

    memory: Size | None = None
    cpu_seconds: Annotated[int, Meta(ge=1, le=10 * 365 * 86400)] | None = None
    nofile: Annotated[int, Meta(ge=8, le=2**20)] | None = None
    pids: Annotated[int, Meta(ge=1, le=2**22)] | None = None
    cpus: Annotated[float, Meta(gt=0, le=4096)] | None = None
    output: Size | None = None


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and how often a task that failed is tried again: `delay * factor ** (attempt - 1)`, plus jitter."""

    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = 1
    delay: Annotated[Duration, Meta(extra_json_schema={"default": 1})] = field(default_factory=lambda: Duration(1))
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_delay: Annotated[Duration, Meta(extra_json_schema={"default": 300})] = field(
        default_factory=lambda: Duration(300)
    )
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    on: tuple[RetryCondition, ...] = ("system", "network")


class Cache(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long, and under which key, a `success` Result may answer for equal work."""

    ttl: Duration
    key: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One piece of work, as published on `P.tasks.<category>`.

    `id` and `category` may be left out on the wire; the worker fills them from the message. `timeout` and `grace`
    default to the category's and the worker's (10 s).
    """

    id: TaskId | None = None
    category: Category | None = None
    command: str = ""
    args: Args = ""
    timeout: Duration | None = None
    grace: Duration | None = None
    env: dict[str, str] = {}
    secret_env: dict[str, str] = {}
    cwd: str | None = None
    stdin: str | Base64 | None = None
    limits: Limits = Limits()
    limits_policy: Literal["best_effort", "require"] = "best_effort"
    retry: Annotated[Retry, Meta(extra_json_schema={"default": {}})] = field(default_factory=Retry)
    max_redeliveries: Annotated[int, Meta(ge=0, le=1000)] = 3
    on_worker_lost: Literal["requeue", "fail"] = "requeue"
    not_before: Annotated[datetime, Meta(tz=True)] | None = None
    delay: Duration | None = None
    schedule: str | None = None
    exclusive: bool = False
    expires: Expiry | None = None
    reply_to: str | None = None
    cache: Cache | None = None
    fallback: "Task | None" = None
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError("`timeout` must be more than 0")
        check_environment("env", self.env)
        check_environment("secret_env", self.secret_env)
        if both := self.env.keys() & self.secret_env.keys():
            raise ValueError(f"`{min(both)}` is given in both `env` and `secret_env`")
        if self.cwd is not None and (not self.cwd or "\0" in self.cwd):
            raise ValueError("`cwd` must not be empty or contain a NUL byte")
        _check_json(self.args)
        self._check_schedule()
        self._check_fallback()

    def stdin_bytes(self) -> bytes:
        """Return what the task reads on standard input; none is none."""
        match self.stdin:
            case Base64():
                return self.stdin.data()
            case str():
                return self.stdin.encode()
        return b""

    def _check_fallback(self) -> None:
        if self.fallback is not None and self.fallback.id is not None:
            raise ValueError("`fallback` must not have an `id`: it runs under its task's")
        depth, task = 0, self.fallback
        while task is not None:
            depth, task = depth + 1, task.fallback
        if depth > MAX_FALLBACKS:
            raise ValueError(f"`fallback` is nested more than {MAX_FALLBACKS} deep")

    def _check_schedule(self) -> None:
        if sum(given is not None for given in (self.not_before, self.delay, self.schedule)) > 1:
            raise ValueError("only one of `not_before`, `delay` and `schedule` may be given")
        if self.not_before is not None:
            _check_in_range(self.not_before)
        if self.schedule is None:
            return
        if not _is_schedule(self.schedule):
            raise ValueError(
                f'`schedule` {self.schedule!r} is neither cron nor such as "@every 5s" (1 s or more) or "@hourly"'
            )
        if self.id is not None and len(self.id) > MAX_RECURRING_ID:
            raise ValueError(f"the `id` of a recurring task has at most {MAX_RECURRING_ID} characters")


def check_environment(name: str, variables: dict[str, str]) -> None:
    """Refuse what no process can be given.

    Raises:
        ValueError: a name or value; the text says which.
    """
    for key, value in variables.items():
        if not key or "=" in key or "\0" in key:
            raise ValueError(f"`{name}` has the name {key!r}: a name must not be empty or contain '=' or a NUL byte")
        if "\0" in value:
            raise ValueError(f"`{name}.{key}` contains a NUL byte")


def _is_schedule(text: str) -> bool:
    if text.startswith("@every "):
        try:
            return Duration.parse(text.removeprefix("@every ")) >= 1
        except ValueError:
            return False
    return _SCHEDULE.fullmatch(text) is not None


def _check_in_range(moment: datetime) -> None:
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("`not_before` is outside the years 1 to 9999 in UTC") from None


def _check_json(value: object, room: int = MAX_NESTING) -> None:
    """Refuse in `args` what only msgpack can hold, and nesting too deep to be safe."""
    match value:
        case None | str() | int():
            return
        case float() if math.isfinite(value):
            return
        case list() | tuple():
            items = [*value]
        case dict() if all(isinstance(key, str) for key in value):
            items = [*value.values()]
        case _:
            raise ValueError(f"`args` holds a `{type(value).__name__}` that JSON has no form for")
    if room == 0:
        raise ValueError(f"`args` is nested more than {MAX_NESTING} deep")
    for item in items:
        _check_json(item, room - 1)
