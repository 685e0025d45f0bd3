"""The options that describe a task, shared by `submit` and `run`, and the Task that they make."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from consumer.errors import ConfigError
from schemas import SchemaError, Task, convert, decode
from schemas.subjects import is_category

from .runner_options import USAGE, RunnerOptions
from .values import content, number, pairs, sendable, variables

_TEXT = Parameter(allow_leading_hyphen=True)


@Parameter(name="*", group="Task", negative="", show_default=False)
@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What every task may have."""

    id: str | None = None
    """Its id; by default a fresh one."""
    timeout: str | None = None
    """Run time, such as 30 or 1m30s."""
    grace: str | None = None
    """Time between SIGTERM and SIGKILL."""
    env: tuple[str, ...] = ()
    """Environment variable K=V, or K to pass on ours; may be repeated."""
    secret_env: tuple[str, ...] = ()
    """The same, kept out of output and logs."""
    cwd: str | None = None
    """Working directory, on the worker."""
    stdin: Annotated[str | None, _TEXT] = None
    """Standard input: text, @FILE, or - for ours."""
    label: tuple[str, ...] = ()
    """Label K=V; may be repeated."""
    limit: tuple[str, ...] = ()
    """Limit NAME=VALUE, such as memory=64MiB; may be repeated."""
    limits_policy: Literal["best_effort", "require"] | None = None
    """Whether to start if a limit cannot be enforced."""
    retry: tuple[str, ...] = ()
    """Retry setting KEY=VALUE, such as max_attempts=3; may be repeated."""
    max_redeliveries: int | None = None
    """How often it may be lost with its worker."""
    on_worker_lost: Literal["requeue", "fail"] | None = None
    """Whether it may run again if its worker is lost."""
    exclusive: bool = False
    """Never overlap a successor, even if the worker is cut off."""
    delay: str | None = None
    """Start after this duration."""
    not_before: str | None = None
    """Start at this time (RFC 3339)."""
    schedule: str | None = None
    """Start again and again: cron, or such as @hourly or '@every 5m'."""
    expires: str | None = None
    """Do not start after this time or duration."""
    cache: str | None = None
    """Reuse the Result of equal work that is no older than this duration."""
    cache_key: str | None = None
    """What makes work equal, instead of its command, arguments and input."""
    reply_to: str | None = None
    """Subject that the Result is published on, too."""
    json: Annotated[str | None, _TEXT] = None
    """The whole Task as JSON, or - to read it from stdin; other options override it."""

    def fields(self) -> dict[str, Any]:
        """Return the fields of the task that the options give.

        Raises:
            ConfigError: an option cannot be read.
        """
        fields = {**self._work(), **self._care(), **self._time(), "reply_to": self.reply_to}
        return {name: value for name, value in fields.items() if value not in (None, {})}

    def _work(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "timeout": number(self.timeout),
            "grace": number(self.grace),
            "env": variables("--env", self.env),
            "secret_env": variables("--secret-env", self.secret_env),
            "cwd": self.cwd,
            "stdin": _stdin(self.stdin),
            "labels": pairs("--label", self.label),
        }

    def _care(self) -> dict[str, Any]:
        return {
            "limits": {key: number(value) for key, value in pairs("--limit", self.limit).items()},
            "limits_policy": self.limits_policy,
            "retry": {key: _retry_setting(key, value) for key, value in pairs("--retry", self.retry).items()},
            "max_redeliveries": self.max_redeliveries,
            "on_worker_lost": self.on_worker_lost,
            "exclusive": self.exclusive or None,
        }

    def _time(self) -> dict[str, Any]:
        return {
            "delay": number(self.delay),
            "not_before": self.not_before,
            "schedule": self.schedule,
            "expires": number(self.expires),
            "cache": _cache(self.cache, self.cache_key),
        }


def make_task(
    category: str | None, words: Sequence[str], runner: RunnerOptions, options: TaskOptions
) -> tuple[str, Task]:
    """Return the category and the Task that a command line describes.

    Raises:
        ConfigError: it describes none; the text says what is wrong.
    """
    if [options.json, options.stdin, runner.body, *words[:1]].count("-") > 1:
        raise ConfigError("only one thing can be read from stdin")
    whole = _whole(options.json)
    named = whole.pop("category", None)
    category = _category(category or named)
    work = runner.work(category, words)
    if not (whole or work) and category in USAGE:
        raise ConfigError(f"say what to run, such as: {USAGE[category]}")
    try:
        return category, sendable(convert({**whole, **work, **options.fields()}, Task))
    except SchemaError as error:
        raise ConfigError(str(error)) from None


def _whole(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        return decode(dict[str, Any], content("--json", text))
    except SchemaError as error:
        raise ConfigError(f"--json: {error}") from None


def check_category(category: object) -> str:
    """Return a category that is one.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(category, str) or not is_category(category):
        raise ConfigError(f"{category!r} is not a category: 1 to 64 characters of A-Z a-z 0-9 _ -")
    return category


def _category(category: object) -> str:
    if category is None:
        raise ConfigError(f"name the task's category, such as: {USAGE['command']}")
    return check_category(category)


def _cache(ttl: str | None, key: str | None) -> dict[str, Any] | None:
    if ttl is None:
        if key is not None:
            raise ConfigError("--cache-key goes with --cache")
        return None
    return {"ttl": number(ttl), **({} if key is None else {"key": key})}


def _stdin(text: str | None) -> str | dict[str, str] | None:
    if text is None:
        return None
    data = content("--stdin", text)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _retry_setting(key: str, value: str) -> object:
    return value.split(",") if key == "on" else number(value)
