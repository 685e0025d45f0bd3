"""The only place that spells a NATS subject, stream or bucket name."""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from .control import Verb

STREAMS: Final = ("stdout", "stderr")
"""The output streams of a task."""

DEFAULT_REPLY_PREFIXES: Final = ("_INBOX", "_INBOX_*", "replies")

MAX_SUBJECT: Final = 1024
"""Characters of a reply subject: the server closes a connection whose control line passes 4096 bytes."""

_VERBS: Final = {verb.value: verb for verb in Verb}
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REPLY: Final = re.compile(r"[!-)+\-/-=?-~]+(\.[!-)+\-/-=?-~]+)*")


class Subjects(Struct, frozen=True):
    """All names under one prefix (contract section 1)."""

    prefix: str = "jetrunner"

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.prefix):
            raise ValueError(f"the subject prefix {self.prefix!r} must be one token of A-Z a-z 0-9 _ -")

    @property
    def tasks_stream(self) -> str:
        return self._stream("TASKS")

    @property
    def control_stream(self) -> str:
        return self._stream("CONTROL")

    @property
    def events_stream(self) -> str:
        return self._stream("EVENTS")

    @property
    def output_stream(self) -> str:
        return self._stream("OUTPUT")

    @property
    def results_stream(self) -> str:
        return self._stream("RESULTS")

    @property
    def dead_stream(self) -> str:
        return self._stream("DEAD")

    @property
    def cache_stream(self) -> str:
        return self._stream("CACHE")

    @property
    def outputs_bucket(self) -> str:
        return f"{self.prefix}_outputs"

    def task(self, category: str) -> str:
        """Subject that tasks of a category come in on; `*` for all."""
        return f"{self.prefix}.tasks.{category}"

    def schedule(self, task_id: str) -> str:
        """Subject that keeps a task until it is due; `*` for all."""
        return f"{self.prefix}.schedule.{task_id}"

    def control(self, task_id: str, verb: Verb | str) -> str:
        """Subject that stops or kills a task; `*` and `*` for all."""
        return f"{self.prefix}.control.{task_id}.{verb}"

    def event(self, task_id: str, type_: str) -> str:
        """Subject of a task's event; `*` and `*` for all."""
        return f"{self.prefix}.events.{task_id}.{type_}"

    def output(self, task_id: str, stream: str) -> str:
        """Subject of a task's live output; `*` and `*` for all."""
        return f"{self.prefix}.output.{task_id}.{stream}"

    def result(self, task_id: str) -> str:
        """Subject that holds a task's Result; `*` for all."""
        return f"{self.prefix}.results.{task_id}"

    def dead(self, category: str) -> str:
        """Subject of the dead letters of a category; `*` for all."""
        return f"{self.prefix}.dead.{category}"

    def cache(self, key: str) -> str:
        """Subject that holds the Result of a kind of work; `*` for all."""
        return f"{self.prefix}.cache.{key}"

    def run(self, category: str) -> str:
        """Subject of the request/reply service of a category."""
        return f"{self.prefix}.run.{category}"

    def ask(self, task_id: str) -> str:
        """Subject on which every worker is asked whether it holds a task; `*` for all."""
        return f"{self.prefix}.ask.{task_id}"

    def alert(self, rule: str) -> str:
        """Subject of the alerts of a rule; `*` for all."""
        return f"{self.prefix}.alerts.{rule}"

    def last_token(self, subject: str) -> str:
        """Return the last token: a task's category, an event's type, an output's stream."""
        return subject.rpartition(".")[2]

    def parse_control(self, subject: str) -> tuple[str, Verb] | None:
        """Return the task and verb that a control subject names, or None if it names none."""
        match subject.split("."):
            case [self.prefix, "control", task_id, verb] if is_task_id(task_id) and verb in _VERBS:
                return task_id, _VERBS[verb]
        return None

    def check_reply(self, subject: str, prefixes: Sequence[str] = DEFAULT_REPLY_PREFIXES) -> None:
        """Let a reply subject pass, or not: the worker must not publish where the task's sender may not.

        Raises:
            ValueError: it is malformed, has a wildcard, is one of ours or the server's, or is not on the allow-list.
        """
        if len(subject) > MAX_SUBJECT or not _REPLY.fullmatch(subject):
            raise ValueError(f"the reply subject {subject[:100]!r} is not a plain subject without wildcards")
        first = subject.partition(".")[0]
        if first.startswith("$") or first == self.prefix:
            raise ValueError(f"the reply subject {subject!r} is reserved")
        if not any(_covers(prefix, subject) for prefix in prefixes):
            raise ValueError(
                f"the reply subject {subject!r} is not allowed: it must start with one of {', '.join(prefixes)}"
            )

    def _stream(self, name: str) -> str:
        return f"{self.prefix.upper()}_{name}"


def is_task_id(text: str) -> bool:
    """Tell whether `text` may be a task's id."""
    return _ID.fullmatch(text) is not None


def is_category(text: str) -> bool:
    """Tell whether `text` may be a category."""
    return _ID.fullmatch(text) is not None


def _covers(prefix: str, subject: str) -> bool:
    """Compare whole tokens; a trailing `*` within a token of the prefix stands for the rest of that token."""
    wanted = prefix.split(".")
    tokens = subject.split(".")
    if len(tokens) < len(wanted):
        return False
    return all(
        token.startswith(want[:-1]) if want.endswith("*") else token == want
        for want, token in zip(wanted, tokens, strict=False)
    )
