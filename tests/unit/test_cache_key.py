"""Which tasks do equal work."""

from typing import Any

import pytest

from consumer.cache import key_of
from schemas import Task, convert

WORK: dict[str, Any] = {
    "id": "a",
    "category": "command",
    "command": "sh",
    "args": ["-c", "true"],
    "env": {"A": "1", "B": "2"},
    "secret_env": {"S": "3"},
    "cwd": "/tmp",
    "stdin": "in",
    "cache": {"ttl": "1h"},
}


def key(**changes: Any) -> str | None:
    """Return the key of some work, changed."""
    return key_of(convert({**WORK, **changes}, Task))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "b"},
        {"args": '["-c", "true"]'},
        {"args": {"args": ["-c", "true"]}},
        {"env": {"B": "2", "A": "1"}},
        {"stdin": {"base64": "aW4="}},
        {"labels": {"x": "y"}},
        {"timeout": 5},
        {"cache": {"ttl": 1}},
        {"retry": {"max_attempts": 3}},
    ],
)
def test_equal_work(changes: dict[str, Any]) -> None:
    """What does not decide what a task does has no part in its key, nor has the way its parameters are written."""
    assert key(**changes) == key()


@pytest.mark.parametrize(
    "changes",
    [
        {"category": "script"},
        {"command": "bash"},
        {"args": ["-c", "false"]},
        {"env": {"A": "1"}},
        {"secret_env": {"S": "4"}},
        {"cwd": "/"},
        {"stdin": "out"},
    ],
)
def test_other_work(changes: dict[str, Any]) -> None:
    """Whatever decides what a task does is in its key, its secrets too."""
    assert key(**changes) != key()


def test_a_key_of_one_s_own() -> None:
    """A task that names its work is believed, within its category."""
    own = {"cache": {"ttl": 1, "key": "mine"}}
    assert key(**own) == key(**own, command="other")
    assert key(**own) != key(**own, category="script")
    assert key(**own) != key(cache={"ttl": 1, "key": "yours"})


def test_a_key_fits_a_subject() -> None:
    """A key is one token; invalid work has none."""
    named = key()
    assert named is not None
    assert named.isalnum()
    assert key(args="7") is None
