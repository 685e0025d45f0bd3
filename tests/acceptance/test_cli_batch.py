"""`jetrunner submit --file` as a process: many tasks from a file or a pipe, on a real nats-server, with a worker."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from consumer.connection import Connection
from consumer.jetstream import api
from tests.acceptance.conftest import COMMAND, PATIENCE, Server, Site, on_terminal, read_terminal

MANY = 10_000


def write(path: Path, tasks: Iterable[object]) -> str:
    """Write tasks into a file, one on each line, and return its name."""
    path.write_text("".join(task if isinstance(task, str) else f"{json.dumps(task)}\n" for task in tasks))
    return str(path)


def task(**fields: Any) -> dict[str, Any]:
    """Return a task as it stands in a file."""
    return {"category": "command", "command": "true", **fields}


def queued(site: Site) -> int:
    """Return how many tasks are in the queue."""

    async def count(connection: Connection) -> int:
        return int((await api(connection, f"STREAM.INFO.{site.subjects.tasks_stream}"))["state"]["messages"])

    return site.connected(count)


def test_many_tasks_are_stored_once(idle_site: Site, tmp_path: Path) -> None:
    """Ten thousand in a few seconds; the same file again submits none of them twice, nor does it with --resume."""
    name = write(tmp_path / "tasks.jsonl", (task(labels={"n": str(number)}) for number in range(MANY)))
    first, again, resumed = (idle_site.jetrunner("submit", "--file", name, *more) for more in ((), (), ("--resume",)))
    assert [done.code for done in (first, again, resumed)] == [0, 0, 0]
    assert len({*first.lines}) == MANY
    assert {*again.lines} == {*first.lines}
    assert resumed.lines == []
    assert queued(idle_site) == MANY
    assert re.search(rf"^submitted {MANY} tasks in \d+ (s|ms), \d+/s\n$", first.stderr, re.MULTILINE)
    assert again.stderr.endswith(f"/s, {MANY} of them again, which changes nothing\n")
    assert resumed.stderr.endswith(f", {MANY} left out: they have ended or are in the queue\n")


def test_ids_are_those_of_the_lines(idle_site: Site, tmp_path: Path) -> None:
    """Their own, or one of batch, line number and line; tasks that were appended are all that is new."""
    path = tmp_path / "tasks.jsonl"
    lines: list[object] = [task(id="mine"), "\n", task(), task(), {"command": "x"}]
    write(path, lines)
    submit = ("submit", "other", "-o", "jsonl", "--file", str(path))
    first = [json.loads(line) for line in idle_site.jetrunner(*submit).lines]
    write(path, [*lines, task(command="new")])
    longer = [json.loads(line) for line in idle_site.jetrunner(*submit).lines]
    renamed = [json.loads(line) for line in idle_site.jetrunner(*submit, "--batch", "b").lines]
    assert [(told["category"], told["line"]) for told in first] == [*(("command", n) for n in (1, 3, 4)), ("other", 5)]
    assert first[0]["task_id"] == "mine"
    assert len({told["task_id"] for told in first}) == 4
    assert longer[:4] == first
    assert {told["task_id"] for told in renamed} & {told["task_id"] for told in longer} == {"mine"}
    assert queued(idle_site) == 5 + 4


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ('{"category":"command",\n', "the payload is not valid JSON: Input data was truncated"),
        ('{"category":"command","comand":"x"}\n', "unknown field `comand`"),
        ('{"category":"command","id":"a b"}\n', "`id`: expected 1 to 64 characters of A-Z a-z 0-9 _ -"),
        ('{"command":"true"}\n', "the task names no `category`; one for all may be given: submit CATEGORY --file …"),
        (json.dumps(task(stdin="x" * 2**20)), "the task has 1048"),
    ],
    ids=["json", "field", "id", "category", "size"],
)
def test_a_bad_line_of_a_file(idle_site: Site, tmp_path: Path, bad: str, why: str) -> None:
    """Nothing is submitted; the sentence names file, line and what is wrong. With --keep-going the others are."""
    name = write(tmp_path / "tasks.jsonl", [task(), task(), bad])
    done = idle_site.jetrunner("submit", "--file", name)
    assert (done.code, done.out, queued(idle_site)) == (2, "", 0)
    assert done.stderr.startswith(f"jetrunner: {name}, line 3: {why}")
    assert len(done.stderr.splitlines()) == 1
    done = idle_site.jetrunner("submit", "--file", name, "--keep-going")
    assert (done.code, len(done.lines), queued(idle_site)) == (2, 2, 2)
    assert f"{name}, line 3: {why}" in done.stderr
    assert done.stderr.endswith(", 1 line refused\n")


def test_a_bad_line_of_a_pipe(idle_site: Site) -> None:
    """What came before it is submitted and counted; without a name each pipe's tasks are new ones."""
    lines = b'{"id":"a"}\n{}\n[]\n{"id":"b"}\n'
    done = idle_site.jetrunner("submit", "command", "--file", "-", stdin=lines)
    assert (done.code, len(done.lines), queued(idle_site)) == (2, 2, 2)
    assert done.stderr.startswith("submitted 2 tasks in ")
    assert done.stderr.endswith("jetrunner: stdin, line 3: expected `object`, got `array`\n")
    again = idle_site.jetrunner("submit", "command", "--file", "-", stdin=lines)
    assert {*done.lines} & {*again.lines} == {"a"}


def test_wait_for_all(site: Site, tmp_path: Path) -> None:
    """The exit code says whether all were a success; those that had ended before count, recurring ones do not."""
    name = write(tmp_path / "good.jsonl", (task(id=f"batch-{number}") for number in range(300)))
    done = site.jetrunner("submit", "--wait", "--file", name)
    assert (done.code, len(done.lines)) == (0, 300)
    assert re.search(r"^ended: 300 success, ", done.stderr, re.MULTILINE)
    recurring = task(id="batch-recurring", schedule="@hourly")
    name = write(tmp_path / "mixed.jsonl", [task(id="batch-0"), task(id="batch-bad", command="false"), recurring])
    done = site.jetrunner("submit", "--wait", "--resume", "--file", name)
    assert done.code == 3
    assert "1 left out" in done.stderr
    assert re.search(r"^ended: 1 failed, 1 success, ", done.stderr, re.MULTILINE)
    assert site.jetrunner("schedule", "rm", "batch-recurring").code == 0


def test_the_forms_of_the_ids(idle_site: Site, tmp_path: Path) -> None:
    """One JSON array, or an object a line; none of no tasks."""
    name = write(tmp_path / "tasks.jsonl", [task(id="a"), task(id="b")])
    expected = [{"task_id": name, "category": "command", "line": line} for line, name in enumerate("ab", 1)]
    assert json.loads(idle_site.jetrunner("submit", "--file", name, "-o", "json").out) == expected
    assert [json.loads(line) for line in idle_site.jetrunner("submit", "--file", name, "-o", "jsonl").lines] == expected
    empty = idle_site.jetrunner("submit", "--file", "/dev/null", "-o", "json")
    assert (empty.code, json.loads(empty.out)) == (0, [])


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--file", "/no/such"], "--file: /no/such cannot be read: No such file or directory"),
        (["--file", "/"], "--file: / cannot be read: Is a directory"),
        (
            ["command", "--file", "-", "--", "ls"],
            "--file takes whole tasks, one on each line: leave out what describes",
        ),
        (["--file", "-", "--timeout", "3"], "--file takes whole tasks, one on each line: leave out what describes"),
        (["a.b", "--file", "-"], "'a.b' is not a category"),
        (["command", "--keep-going", "--", "ls"], "--keep-going goes with --file"),
    ],
    ids=str,
)
def test_what_does_not_go_together(idle_site: Site, args: list[str], why: str) -> None:
    """One sentence and exit code 2."""
    done = idle_site.jetrunner("submit", *args)
    assert (done.code, done.out) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"jetrunner: {why}")


def test_ctrl_c_says_how_many_were_stored(idle_site: Site) -> None:
    """The pipe is still open; what was read from it is submitted as it comes."""
    process = subprocess.Popen(
        [COMMAND, "submit", "command", "--file", "-", "-o", "jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=idle_site.environ,
    )
    with process:
        assert process.stdin
        process.stdin.write(b'{"id":"a"}\n{"id":"b"}\n{"id":')
        process.stdin.flush()
        idle_site.call(lambda client: _until_queued(client.queue, 2))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr
        said = process.stderr.read().decode()
    assert said.startswith("submitted 2 tasks in ")
    assert said.endswith("interrupted; what was submitted goes on\n")


async def _until_queued(queue: Any, count: int) -> None:
    with anyio.fail_after(PATIENCE):
        while len(await queue()) < count:
            continue


def test_a_terminal_shows_a_bar(idle_site: Site, tmp_path: Path) -> None:
    """It goes when all are submitted, and the summary stays."""
    name = write(tmp_path / "tasks.jsonl", [task(), task()])
    with on_terminal(idle_site, "submit", "--file", name) as (process, terminal):
        shown = read_terminal(terminal)
        assert process.wait(PATIENCE) == 0
    assert "submitting " in shown
    assert "━" in shown
    assert "2/2" in shown
    assert "submitted 2 tasks in " in shown


def test_nothing_is_lost_with_the_server(server: Server, tmp_path: Path) -> None:
    """It dies in the middle and comes back: every task is stored, once."""
    site = Site(server, tmp_path)
    assert site.jetrunner("init").code == 0
    name = write(tmp_path / "tasks.jsonl", (task(labels={"n": str(number)}) for number in range(MANY)))
    with site.start("submit", "--file", name, "-o", "jsonl") as running:
        assert running.process.stdout
        os.read(running.process.stdout.fileno(), 1)  # past its buffer, which `end` does not look into
        server.kill()
        server.start()
        code, told = running.end()
    assert code == 0, running.said.decode()
    assert told.count("\n") == MANY
    assert queued(site) == MANY
