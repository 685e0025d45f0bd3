"""What commands print, and what they exit with."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.cli import main
from consumer.cli.rendering import age, complain, exit_code, print_facts, print_json, print_table, say, short, when
from schemas import Result, Status


def result(status: Status, code: int | None = None) -> Result:
    return Result(task_id="t", category="command", status=status, exit_code=code, end_time=datetime.now(UTC))


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        (0, result(Status.SUCCESS, 0)),
        (0, result(Status.SUCCESS)),
        (7, result(Status.FAILED, 7)),
        (137, result(Status.FAILED, 137)),
        (3, result(Status.FAILED)),
        (3, result(Status.FAILED, 0)),
        (3, result(Status.FAILED, 256)),
        (124, result(Status.TIMEOUT, 143)),
        (125, result(Status.CANCELED, 143)),
        (125, result(Status.CANCELED)),
        (3, result(Status.ERROR)),
    ],
    ids=lambda value: value.status if isinstance(value, Result) else str(value),
)
def test_every_end_has_an_exit_code(code: int, ended: Result) -> None:
    """The table of contract section 8; no end but success looks like it."""
    assert exit_code(ended) == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0 ms", 0),
        ("0 ms", -3),
        ("12 ms", 0.0123),
        ("1 s", 1),
        ("59 s", 59),
        ("2 min", 100),
        ("3 h", 10800),
        ("2 d", 2e5),
    ],
)
def test_spans_of_time_are_short(text: str, seconds: float) -> None:
    """In their largest unit; a clock that is ahead of ours does no harm."""
    assert short(seconds) == text


def test_moments_are_told_with_their_age() -> None:
    """What is not known is empty."""
    assert when(datetime.now(UTC) - timedelta(hours=3)).endswith(", 3 h ago")
    assert (when(None), age(None)) == ("", "")


def test_json_is_one_line_on_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """So that lines are values."""
    print_json({"a": [1, {"b": "c"}]})
    assert capsys.readouterr().out == '{"a":[1,{"b":"c"}]}\n'


def test_a_table_on_a_pipe_is_cut_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    """However wide it is; what tasks say cannot move the cursor."""
    print_table(("ID", "TEXT"), [("1", "x" * 500), ("2", "[red]\x1b[2J")])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ID", "TEXT"]
    assert first.split() == ["1", "x" * 500]
    assert second.split() == ["2", r"[red]\x1b[2J"]


def test_facts_that_are_not_known_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A zero is known."""
    print_facts({"id": "x", "exit code": 0, "error": "", "worker": None})
    assert capsys.readouterr().out == "id         x\nexit code  0\n"


def test_people_are_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, whatever is in it, and no color where there is no terminal."""
    say("begun\x1b[2J")
    complain("it is\nbroken")
    assert capsys.readouterr() == ("", "begun\\x1b[2J\njetrunner: it is broken\n")


@pytest.mark.parametrize(
    "line",
    [
        "run --no-such command",
        "run command",
        "run --timeout soon command -- true",
        "submit --json {",
        "follow",
        "follow no.body",
        "follow x --timeout y",
        "result no.body",
        "result x y",
        "status no.body",
        "events no.body",
        "events --type born",
        "events --since monday",
        "stop no.body",
        "stop x --grace y",
        "kill no.body",
        "kill x --grace 1s",
        "ls --limit 0",
        "ls --status dead",
        "ls -o yaml",
        "sumbit",
    ],
)
def test_a_mistake_is_one_sentence(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found before a server is looked for, and is worth exit code 2."""
    monkeypatch.setenv("JETRUNNER_NATS_URL", "nats://127.0.0.1:1")
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jetrunner: ")
    assert len(err.splitlines()) == 1


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """More than the list of commands does, and without running."""
    for command in ("submit", "run", "follow", "result", "status", "stop", "kill", "ls", "events"):
        assert main([command, "--help"]) == 0
        shown: Any = capsys.readouterr().out
        assert shown.startswith(f"Usage: jetrunner {command}")
        assert "--server" in shown
    assert json.dumps(shown)
