"""What is shown of a task that holds secrets."""

from typing import Any

import pytest

from consumer.cli.secrecy import without_secrets


def test_secrets_are_replaced_wherever_they_are() -> None:
    """In their own place, in arguments, in a fallback and in other variables."""
    task: dict[str, Any] = {
        "secret_env": {"KEY": "hunter22"},
        "env": {"LANG": "C", "API_TOKEN": "letmein1", "URL": "http://me:hunter22@host"},
        "args": ["--key=hunter22", {"deep": ["letmein1"]}],
        "fallback": {"secret_env": {"OTHER": "opensesame"}, "args": ["opensesame", "hunter22"]},
        "timeout": 3,
    }
    assert without_secrets(task) == {
        "secret_env": {"KEY": "[REDACTED]"},
        "env": {"LANG": "C", "API_TOKEN": "[REDACTED]", "URL": "http://me:[REDACTED]@host"},
        "args": ["--key=[REDACTED]", {"deep": ["[REDACTED]"]}],
        "fallback": {"secret_env": {"OTHER": "[REDACTED]"}, "args": ["[REDACTED]", "[REDACTED]"]},
        "timeout": 3,
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"PIN": "12"}, {"PIN": "[REDACTED]"}),
        ({"PIN": 1234}, {"PIN": "[REDACTED]"}),
        ("PIN=1234", "[REDACTED]"),
        (["PIN=1234"], "[REDACTED]"),
        ({}, {}),
    ],
)
def test_a_secret_need_not_be_well_formed(given: object, shown: object) -> None:
    """A task may be dead because its `secret_env` is not as it should be; short secrets are hidden where they are."""
    assert without_secrets({"secret_env": given, "env": "no object"}) == {"secret_env": shown, "env": "no object"}
