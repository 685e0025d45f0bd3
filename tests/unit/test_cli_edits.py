"""What `--edit` changes in a task."""

from typing import Any

import pytest

from consumer.cli.edits import edited
from consumer.errors import ConfigError

TASK: dict[str, Any] = {"id": "a", "command": "ls", "comand": "x", "env": {"LANG": "C"}, "retry": {"factor": 3}}


@pytest.mark.parametrize(
    ("edit", "key", "value"),
    [
        ("timeout=5m", "timeout", "5m"),
        ("timeout=30", "timeout", 30),
        ("command=7", "command", "7"),
        ("command=", "command", ""),
        ("command=a=b", "command", "a=b"),
        ('command="null"', "command", "null"),
        ('args=["-la","7"]', "args", ["-la", "7"]),
        ("args.script=exit 3", "args", {"script": "exit 3"}),
        ("exclusive=true", "exclusive", True),
        ("env.PORT=80", "env", {"LANG": "C", "PORT": "80"}),
        ("env.LANG=null", "env", {}),
        ("retry.max_attempts=4", "retry", {"factor": 3, "max_attempts": 4}),
        ("stdin.base64=aGk=", "stdin", {"base64": "aGk="}),
    ],
)
def test_a_value_is_what_a_task_may_have_there(edit: str, key: str, value: object) -> None:
    """JSON where that fits, else text; a dot leads into an object, and the rest of it stays."""
    assert edited(TASK, [edit]) == {**TASK, key: value}


def test_null_takes_a_field_out() -> None:
    """Also one that no task has; what was given is not changed."""
    assert edited(TASK, ["comand=null", "env=null"]) == {"id": "a", "command": "ls", "retry": {"factor": 3}}
    assert "comand" in TASK


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        ("timeout", "--edit: expected KEY=VALUE, got 'timeout'"),
        ("tiemout=5", "--edit tiemout: unknown field `tiemout`"),
        ("retry.max_attempts=many", "--edit retry.max_attempts: `retry.max_attempts`: expected `int`, got `str`"),
        ("id=mine", "--edit: a retried task gets a fresh `id`"),
    ],
)
def test_an_edit_that_makes_no_task(edit: str, error: str) -> None:
    """It is refused with a sentence that names it."""
    with pytest.raises(ConfigError) as refusal:
        edited(TASK, [edit])
    assert str(refusal.value) == error
