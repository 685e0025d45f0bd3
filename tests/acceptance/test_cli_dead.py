"""`jetrunner dead` as a process: tasks that a real worker has given up, looked into, retried and removed."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.connection import Connection
from consumer.jetstream import publish
from schemas import Result
from tests.acceptance.conftest import PATIENCE, Site, on_terminal, read_terminal

ID = re.compile(r"[0-9a-f]{16}")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def send(site: Site, task_id: str, payload: bytes, category: str = "command", **headers: str) -> Result:
    """Submit what may be no task, and wait for its Result."""

    async def store(connection: Connection) -> None:
        await publish(connection, site.subjects.task(category), payload, message_id=task_id, headers=headers)

    site.connected(store)
    return site.call(lambda client: client.wait(task_id))


def finish(site: Site, task_id: str) -> Result:
    """Wait for a task's Result."""
    return site.call(lambda client: client.wait(task_id))


@pytest.fixture
def dead_site(idle_site: Site) -> Iterator[Site]:
    """Have a worker that has given up the tasks typo, secret and broken, the last one last, and one of nobody's."""
    with idle_site.worker(JETRUNNER_UNKNOWN_CATEGORY_AFTER="0.1"):
        send(idle_site, "typo", b'{"comand":"echo","args":["hi"]}', TraceParent=TRACE)
        send(idle_site, "secret", b'{"command":"env","secret_env":{"KEY":"hunter22"},"env":{"A":"hunter22"},"x":1}')
        send(idle_site, "broken", b'{"command":\x1b]0;')
        send(idle_site, "nobodys", b"{}", category="nobody")
        yield idle_site


def dead(site: Site, *args: str) -> list[str]:
    """Return what a `dead` command prints."""
    done = site.jetrunner("dead", *args)
    assert (done.code, done.stderr) == (0, "")
    return done.lines


# -- ls and show -------------------------------------------------------------------------------------------------------


def test_ls_lists_what_was_given_up_newest_first(dead_site: Site) -> None:
    """By category, error code, time and number, in every form."""
    expected = {
        "": ["nobodys", "broken", "secret", "typo"],
        "--limit 2": ["nobodys", "broken"],
        "--category command": ["broken", "secret", "typo"],
        "--code unknown_category": ["nobodys"],
        "--code none_such": [],
        "--since 0": [],
        "--since 1h --limit 1": ["nobodys"],
    }
    all_done = dead_site.jetrunner_each(*(["dead", "ls", "-o", "id", *options.split()] for options in expected))
    assert [done.lines for done in all_done] == [*expected.values()]
    jsonl, json_, table = (dead(dead_site, "ls", "-o", form) for form in ("jsonl", "json", "table"))
    letters = [json.loads(line) for line in jsonl]
    assert letters == json.loads(json_[0])
    typo = letters[3]
    assert (typo["task_id"], typo["category"], typo["error_code"]) == ("typo", "command", "invalid_task")
    assert (typo["reason"], typo["attempt"], typo["redeliveries"]) == ("unknown field `comand`", 1, 0)
    assert table[0].split() == ["ID", "CATEGORY", "AGE", "ATTEMPT", "LOST", "CODE", "REASON"]
    assert table[4].startswith("typo ")
    assert table[4].rstrip().endswith("unknown field `comand`")


def test_show_tells_all_but_secrets(dead_site: Site) -> None:
    """Why, when, what it came with, and the task, for people and for programs."""
    table, json_ = dead(dead_site, "show", "ty"), dead(dead_site, "show", "typo", "-o", "json")
    facts = {name: value.strip() for name, _, value in (line.partition("  ") for line in table)}
    assert (facts["task"], facts["reason"]) == ("typo", "unknown field `comand`")
    assert (facts["error code"], facts["attempt"], facts["redeliveries"]) == ("invalid_task", "1", "0")
    assert any(TRACE in line for line in table)
    shown = json.loads(json_[0])
    assert shown["task"] == {"comand": "echo", "args": ["hi"]}
    assert shown["headers"]["TraceParent"] == TRACE
    hidden = dead(dead_site, "show", "secret")
    assert hidden[hidden.index("task:") + 1 :] == json.dumps(
        {"command": "env", "secret_env": {"KEY": "[REDACTED]"}, "env": {"A": "[REDACTED]"}, "x": 1}, indent=2
    ).split("\n")
    assert r'{"command":\x1b]0;' in dead(dead_site, "show", "broken")


def test_show_of_what_is_not_there(dead_site: Site) -> None:
    """5 for no letter, 2 for more than one."""
    done = dead_site.jetrunner("dead", "show", "alive")
    assert (done.code, done.stderr) == (5, "jetrunner: there is no dead letter of a task alive\n")
    send(dead_site, "type", b"{")
    done = dead_site.jetrunner("dead", "show", "typ")
    assert (done.code, done.out) == (2, "")
    assert done.stderr == "jetrunner: 2 dead letters have an id that begins with typ: type, typo\n"


# -- retry -------------------------------------------------------------------------------------------------------------


def test_retry_corrects_a_task_and_the_worker_runs_it(dead_site: Site) -> None:
    """The new id is printed; label and trace lead back; the letter stays."""
    edits = ("--edit", "comand=null", "--edit", "command=sh", "--edit", 'args=["-c","echo alive"]')
    (new_id,) = dead(dead_site, "retry", "typo", *edits)
    result = finish(dead_site, new_id)
    assert ID.fullmatch(new_id)
    assert (result.status, result.output, result.labels) == ("success", "alive\n", {"retry_of": "typo"})
    assert (result.attempt, len(dead(dead_site, "ls", "-o", "id"))) == (1, 4)


def test_retry_replaces_a_task_with_a_file_and_removes_the_letter(dead_site: Site, tmp_path: Path) -> None:
    """Whatever is left of the original; --rm removes what was retried, and nothing else."""
    file = tmp_path / "task.json"
    file.write_text('{"id":"broken","command":"echo","args":["whole"]}')
    done = dead_site.jetrunner("dead", "retry", "broken")
    assert (done.code, done.out) == (2, "")
    assert done.stderr == "jetrunner: the task broken cannot be read: give the whole task with --file\n"
    (line,) = dead(dead_site, "retry", "broken", "--file", str(file), "--rm", "-o", "jsonl")
    told = json.loads(line)
    assert told == {"task_id": told["task_id"], "retry_of": "broken"}
    assert finish(dead_site, told["task_id"]).output == "whole\n"
    assert dead(dead_site, "ls", "-o", "id") == ["nobodys", "secret", "typo"]
    piped = dead_site.jetrunner("dead", "retry", "typo", "--file", "-", stdin=file.read_bytes())
    assert finish(dead_site, piped.out.strip()).output == "whole\n"


def test_retry_of_all_retries_those_that_can_be(dead_site: Site) -> None:
    """Those that cannot are named, and the exit code says so; the secrets go with the task."""
    done = dead_site.jetrunner("dead", "retry", "--all", "--category", "command", "--edit", "x=null")
    assert (done.code, len(done.lines)) == (2, 1)
    assert done.stderr.splitlines() == [
        "jetrunner: the task typo cannot be retried as it is: unknown field `comand`",
        "jetrunner: the task broken cannot be read: give the whole task with --file",
    ]
    result = finish(dead_site, done.lines[0])
    assert (result.status, result.labels) == ("success", {"retry_of": "secret"})
    assert "KEY=[REDACTED]\n" in result.output


def test_retry_of_a_task_that_was_cut(dead_site: Site) -> None:
    """What is left of it is not run."""
    send(dead_site, "large", b"{}" + b" " * (2**20 - 200))
    done = dead_site.jetrunner("dead", "retry", "large")
    assert (done.code, done.out) == (2, "")
    cut = r"jetrunner: of the task large only \d+ of 1048378 bytes are kept: give the whole task with --file\n"
    assert re.fullmatch(cut, done.stderr)


def test_retry_of_a_task_for_two_categories(dead_site: Site) -> None:
    """Which one is meant must be said."""
    send(dead_site, "torn", b'{"category":"script","command":"true"}')
    done = dead_site.jetrunner("dead", "retry", "torn")
    assert done.code == 2
    assert done.stderr.endswith("names another `category`: choose one with --edit category=NAME\n")
    (new_id,) = dead(dead_site, "retry", "torn", "--edit", "category=command")
    assert (finish(dead_site, new_id).status, finish(dead_site, new_id).category) == ("success", "command")


# -- rm ----------------------------------------------------------------------------------------------------------------


def test_rm_takes_whole_ids_only(dead_site: Site) -> None:
    """And removes nothing if one of them is not there."""
    for names in (["typ"], ["typo", "alive"]):
        done = dead_site.jetrunner("dead", "rm", *names)
        assert (done.code, done.out) == (5, "")
        assert done.stderr.endswith("removing one takes the whole id\n")
    done = dead_site.jetrunner("dead", "rm", "typo", "nobodys")
    assert (done.code, done.out, done.stderr) == (0, "", "removed 2 dead letters\n")
    assert dead(dead_site, "ls", "-o", "id") == ["broken", "secret"]


def test_rm_of_all_must_be_confirmed(dead_site: Site) -> None:
    """By --yes, or on a terminal."""
    done = dead_site.jetrunner("dead", "rm", "--all")
    assert (done.code, done.out) == (2, "")
    assert done.stderr.endswith("say so with --yes\n")
    for answer, code in (("n", 1), ("", 1), ("y", 0)):
        with on_terminal(dead_site, "dead", "rm", "--all", "--code", "unknown_category") as (process, terminal):
            read_terminal(terminal, "Remove 1 dead letter for good? [y/N]")
            os.write(terminal, f"{answer}\n".encode())
            read_terminal(terminal, "none was removed" if code else "removed 1 dead letter")
            assert process.wait(PATIENCE) == code
    assert dead(dead_site, "ls", "-o", "id") == ["broken", "secret", "typo"]
    done = dead_site.jetrunner("dead", "rm", "--all", "--yes", "--category", "command")
    assert (done.code, done.stderr) == (0, "removed 3 dead letters\n")
    assert dead(dead_site, "ls", "-o", "id") == []


@pytest.mark.parametrize("command", ["retry", "rm"])
def test_what_is_meant_must_be_clear(idle_site: Site, command: str) -> None:
    """Ids, or --all with or without a selection; anything else is a mistake."""
    mistakes: dict[str, list[Any]] = {
        "name the tasks, or say --all": [],
        "name the tasks, or say --all, but not both": ["a", "--all"],
        "--category, --code and --since choose among --all": ["a", "--code", "x"],
    }
    all_done = idle_site.jetrunner_each(*(["dead", command, *args] for args in mistakes.values()))
    for done, text in zip(all_done, mistakes, strict=True):
        assert (done.code, done.out, done.stderr) == (2, "", f"jetrunner: {text}\n")
