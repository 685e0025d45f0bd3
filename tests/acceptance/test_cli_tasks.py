"""Tasks from the command line: `jetrunner` as a process, on a real nats-server, with a real worker process."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest

from consumer.client import Client, whoami
from consumer.jetstream import api
from schemas import Cause, Control, Event, EventType, Result, Task, Termination, Verb
from tests.acceptance.conftest import PATIENCE, Server, Site, on_terminal, read_terminal

ID = re.compile(r"[0-9a-f]{16}")
WAIT = 'trap "exit 9" TERM; echo begun; read _ <"$0"; echo released; exit "$1"'
"""A script that says that it has begun, and goes on when something is written to a FIFO."""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Have a FIFO that holds a task until it is written to."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def submit(site: Site, *argv: str, category: str = "command", **task: Any) -> str:
    """Submit a task and return its id."""
    given = Task(command=argv[0] if argv else "", args=[*argv[1:]], **task)
    return site.call(lambda client: client.submit(category, given))


def finish(site: Site, task_id: str) -> Result:
    """Wait for a task's Result."""
    return site.call(lambda client: client.wait(task_id))


def kill(site: Site, task_id: str) -> Result:
    """Kill a task that runs, and wait for its Result."""
    assert site.call(lambda client: client.result(task_id)) is None
    site.call(lambda client: client.control(task_id, Verb.KILL, Control()))
    return finish(site, task_id)


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_passes_output_on_as_it_is_and_tells_the_states(site: Site) -> None:
    """Bytes are not touched; what happens is told on stderr, in order."""
    done = site.jetrunner("run", "command", "--", "sh", "-c", r"printf '\377\0x'; echo oops >&2")
    assert (done.code, done.stdout) == (0, b"\xff\0x")
    states = [line for line in done.stderr.splitlines() if line != "oops"]
    assert re.fullmatch(r"queued: [0-9a-f]{16}", states[0])
    assert re.fullmatch(r"started pid \d+ on worker \S+", states[1])
    assert re.fullmatch(r"finished: success in \d+ ms", states[2])
    assert "oops\n" in done.stderr


def test_run_exits_with_the_task_s_own_code(site: Site) -> None:
    """A failed task's sentence is on stderr."""
    done = site.jetrunner("run", "command", "--", "sh", "-c", "exit 7")
    assert (done.code, done.out) == (7, "")
    assert done.stderr.splitlines()[-1] == "jetrunner: the process ended with exit code 7"


def test_run_has_a_code_for_every_end(site: Site) -> None:
    """128+n for a signal, 127 for no program, 124 for a time-out, 3 for a task that was refused."""
    ends = {
        137: ["command", "--", "sh", "-c", "kill -9 $$"],
        127: ["command", "--", "no-such-program"],
        124: ["command", "--timeout", "0.2", "--", "sleep", "60"],
        3: ["command", "--timeout", "9d", "--", "true"],
    }
    all_done = site.jetrunner_each(*(["run", "--quiet", *args] for args in ends.values()))
    assert [done.code for done in all_done] == [*ends]
    assert all(re.fullmatch(r"jetrunner: .+\n", done.stderr) for done in all_done)


def test_run_can_be_quiet(site: Site) -> None:
    """Then stderr is the task's own."""
    done = site.jetrunner("run", "-q", "command", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.code, done.out, done.stderr) == (0, "out\n", "err\n")


def test_run_can_print_the_result_instead_of_the_output(site: Site) -> None:
    """With -o json stdout is the Result, whatever the task wrote; the exit code stays."""
    done = site.jetrunner("run", "-o", "json", "command", "--", "sh", "-c", "echo out; echo err >&2; exit 4")
    result = json.loads(done.out)
    assert done.code == 4
    assert (result["output"], result["stderr"], result["exit_code"]) == ("out\n", "err\n", 4)
    assert "err\n" not in done.stderr


def test_run_gives_the_task_what_its_options_say(site: Site, tmp_path: Path) -> None:
    """Variables, secrets from our environment, directory, input from stdin and labels arrive."""
    script = 'echo "$A $B $SECRET"; pwd; cat'
    options = ["--env", "A=a=b", "--env", "B", "--secret-env", "SECRET", "--cwd", str(tmp_path), "--stdin", "-"]
    task = ["--id", f"options-{os.getpid()}", "--label", "k=v", "--grace", "1s", "--limit", "nofile=64"]
    done = site.jetrunner(
        "run", *options, *task, "command", "--", "sh", "-c", script, stdin=b"\xffin", B="bee", SECRET="s3cret-value"
    )
    assert done.code == 0
    assert done.stdout.startswith(b"a=b bee ")
    assert done.stdout.endswith(str(tmp_path).encode() + b"\n\xffin")
    assert finish(site, f"options-{os.getpid()}").labels == {"k": "v"}


def test_run_takes_a_whole_task_as_json(site: Site) -> None:
    """Options add to what it says."""
    task = {"category": "command", "command": "sh", "args": ["-c", "echo $A"]}
    done = site.jetrunner("run", "-q", "--env", "A=1", "--json", "-", stdin=json.dumps(task).encode())
    assert (done.code, done.out) == (0, "1\n")


def test_run_ends_quietly_when_its_reader_has_seen_enough(site: Site) -> None:
    """A closed pipe is no error."""
    with site.start("run", "-q", "command", "--", "seq", "200000") as running:
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == b"1\n"
        running.process.stdout.close()
        assert running.process.wait(PATIENCE) == 0
        assert running.process.stderr is not None
        assert running.process.stderr.read() == b""


def test_an_interrupt_leaves_the_task_running(site: Site) -> None:
    """Without a terminal, the first SIGINT detaches with 130 and says how to go on."""
    with site.start("run", "command", "--", "sleep", "60") as running:
        task_id = running.read_until("queued").split()[-1]
        running.read_until("started")
        running.process.send_signal(signal.SIGINT)
        code, _ = running.end()
    assert code == 130
    assert running.said.decode().splitlines()[-1] == f"the task goes on: jetrunner follow {task_id}"
    assert kill(site, task_id).status == "canceled"


def test_on_a_terminal_an_interrupt_asks_first(site: Site) -> None:
    """Nothing more happens: the task is left alone, with 130."""
    with on_terminal(site, "run", "command", "--", "sleep", "60") as (process, terminal):
        shown = read_terminal(terminal, "started")
        process.send_signal(signal.SIGINT)
        read_terminal(terminal, "press Ctrl-C again to stop it")
        read_terminal(terminal, "the task goes on: jetrunner follow")
        assert process.wait(PATIENCE) == 130
    task_id = ID.findall(shown)[0]
    assert kill(site, task_id).status == "canceled"


def test_on_a_terminal_a_second_interrupt_stops_the_task(site: Site) -> None:
    """It is followed to its end, and canceled by us."""
    with on_terminal(site, "run", "command", "--", "sleep", "60") as (process, terminal):
        read_terminal(terminal, "started")
        process.send_signal(signal.SIGINT)
        read_terminal(terminal, "press Ctrl-C again to stop it")
        process.send_signal(signal.SIGINT)
        shown = read_terminal(terminal, "\x1b[2mfinished: canceled")
        assert process.wait(PATIENCE) == 125
    assert re.search(r"stopping: SIGTERM \(\S+@\S+: Ctrl-C\)", shown)


def test_colors_can_be_refused(site: Site) -> None:
    """NO_COLOR is respected."""
    with on_terminal(site, "run", "command", "--", "true", NO_COLOR="1") as (_, terminal):
        shown = read_terminal(terminal)
    assert "queued: " in shown
    assert "\x1b" not in shown


# -- submit ------------------------------------------------------------------------------------------------------------


def test_submit_prints_the_id_and_nothing_else(site: Site) -> None:
    """A fresh one, or the one that is asked for."""
    done = site.jetrunner("submit", "command", "--", "true")
    assert (done.code, done.stderr) == (0, "")
    assert re.fullmatch(r"[0-9a-f]{16}\n", done.out)
    done = site.jetrunner("submit", "--id", f"mine-{os.getpid()}", "-o", "json", "command", "--", "true")
    assert json.loads(done.out) == {"task_id": f"mine-{os.getpid()}", "category": "command"}


async def publish(url: str, subject: str, payload: str, headers: dict[str, str]) -> None:
    client = await nats.connect(url)
    await client.publish(subject, payload.encode(), headers=headers)
    await client.close()


def test_submit_can_print_the_nats_command_instead(site: Site) -> None:
    """What it prints is a task as anyone may publish it."""
    task_id = f"printed-{os.getpid()}"
    done = site.jetrunner("submit", "--print", "--id", task_id, "command", "--", "printf", "%s|", "it's", '{{"')
    assert (done.code, done.stderr) == (0, "")
    nats_, pub, no_templates, subject, payload, flag, header = shlex.split(done.out)
    assert (nats_, pub, no_templates, flag) == ("nats", "pub", "--no-templates", "-H")
    anyio.run(publish, site.server.url, subject, payload, dict([header.split(":")]))
    done = site.jetrunner("follow", "-q", "--timeout", "10s", task_id)
    assert (done.code, done.out) == (0, "it's|{{\"|")


# -- follow ------------------------------------------------------------------------------------------------------------


def test_follow_tells_a_finished_task_s_story_from_the_start(site: Site) -> None:
    """Output, states and exit code are those of `run`."""
    task_id = submit(site, "sh", "-c", "echo out; echo err >&2; exit 6")
    finish(site, task_id)
    done = site.jetrunner("follow", task_id)
    assert (done.code, done.out) == (6, "out\n")
    lines = done.stderr.splitlines()
    assert {"err", "jetrunner: the process ended with exit code 6"} < set(lines)
    assert sum(line.startswith(("started pid", "finished: failed, exit code 6")) for line in lines) == 2


def test_follow_joins_a_running_task_by_the_beginning_of_its_id(site: Site, fifo: Path) -> None:
    """What was written before is not missed, and the end is the task's."""
    task_id = submit(site, "sh", "-c", WAIT, str(fifo), "5")
    site.call(lambda client: started(client, task_id))
    with site.start("follow", task_id[:10]) as following:
        following.read_until("started")
        fifo.write_text("\n")
        assert following.end() == (5, "begun\nreleased\n")


def test_follow_waits_for_a_task_that_has_not_started(idle_site: Site) -> None:
    """It says that the task is queued, and goes on when a worker comes."""
    task_id = submit(idle_site, "echo", "at last")
    with idle_site.start("follow", task_id) as following:
        following.read_until(f"queued: {task_id}")
        with idle_site.worker():
            assert following.end() == (0, "at last\n")


def test_follow_gives_up_when_told_to(idle_site: Site) -> None:
    """Its own time-out is 124, too, and leaves the task alone."""
    task_id = submit(idle_site, "true")
    done = idle_site.jetrunner("follow", "--timeout", "0.1", task_id)
    assert done.code == 124
    assert done.stderr.splitlines()[-1] == f"jetrunner: the task {task_id} has not ended within 0.1 s; it goes on"


def test_follow_survives_the_server_s_end(server: Server, tmp_path: Path, fifo: Path) -> None:
    """It goes on after the last thing it showed, once the server is back."""
    site = Site(server, tmp_path)
    with site.worker(), site.start("run", "command", "--", "sh", "-c", WAIT, str(fifo), "8") as running:
        running.read_until("started")
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == b"begun\n"
        server.kill()
        running.read_until("the connection to the server was lost")
        server.start()
        fifo.write_text("\n")
        assert running.end() == (8, "released\n")


# -- result and status -------------------------------------------------------------------------------------------------


def test_result_is_json_on_a_pipe(site: Site) -> None:
    """It is the stored Result; its exit code says only that there is one."""
    task_id = submit(site, "sh", "-c", "echo out; exit 3")
    assert finish(site, task_id).exit_code == 3
    done = site.jetrunner("result", task_id[:12])
    assert (done.code, done.stderr) == (0, "")
    assert json.loads(done.out)["task_id"] == task_id


def test_result_can_give_the_output_back(site: Site) -> None:
    """Both streams are as the task wrote them, binary or not."""
    task_id = submit(site, "sh", "-c", r"printf '\377\0x'; printf err >&2")
    finish(site, task_id)
    done = site.jetrunner("result", task_id, "-o", "output")
    assert (done.code, done.stdout, done.stderr) == (0, b"\xff\0x", "err")


def test_result_says_what_is_missing_of_the_output(site: Site) -> None:
    """A truncated stream is not passed off as whole."""
    task_id = submit(site, "sh", "-c", "seq 100000")
    finish(site, task_id)
    done = site.jetrunner("result", task_id, "-o", "output")
    assert len(done.stdout) == 128 * 1024
    assert re.search(r"^\d+ of the 588895 bytes of stdout are not in the Result", done.stderr)


def test_result_is_for_people_on_a_terminal(site: Site) -> None:
    """Facts and output, no JSON."""
    task_id = submit(site, "echo", "hello")
    finish(site, task_id)
    with on_terminal(site, "result", task_id) as (_, terminal):
        shown = read_terminal(terminal)
    assert re.search(rf"task +{task_id}\n(.*\n)*status +success\n(.*\n)*output:\nhello\n", shown)


def test_result_of_a_task_that_has_none_yet(idle_site: Site) -> None:
    """5, with a hint that says where the task is; or 124, if it was waited for."""
    task_id = submit(idle_site, "true")
    calls = ["result", task_id], ["result", task_id, "--wait", "--timeout", "0.1"]
    done, waited = idle_site.jetrunner_each(*calls)
    assert (done.code, done.out, waited.code, waited.out) == (5, "", 124, "")
    assert done.stderr.endswith("has no Result yet: it is pending; wait for it with --wait\n")


def test_status_knows_where_a_task_is(idle_site: Site, fifo: Path) -> None:
    """Pending in the queue, running on a worker since a moment, ended with a code."""

    def status(task_id: str) -> dict[str, Any]:
        return dict(json.loads(idle_site.jetrunner("status", task_id, "-o", "json").out))

    task_id = submit(idle_site, "sh", "-c", WAIT, str(fifo), "2")
    pending = status(task_id)
    assert (pending["status"], pending["category"], pending["started"]) == ("pending", "command", None)
    with idle_site.worker(), idle_site.start("follow", task_id) as following:
        worker = following.read_until("started").split()[-1]
        json_, table = idle_site.jetrunner_each(["status", task_id, "-o", "json"], ["status", task_id])
        running = json.loads(json_.out)
        assert (running["status"], running["worker"]) == ("running", worker)
        assert running["started"] > running["submitted"]
        assert re.search(rf"status +running\n(.*\n)*worker +{worker}\n(.*\n)*started +\S+ \S+, \d+ ", table.out)
        fifo.write_text("\n")
        assert following.end()[0] == 2
    ended = status(task_id[:9])
    assert (ended["status"], ended["exit_code"], ended["task_id"]) == ("failed", 2, task_id)


# -- stop and kill -----------------------------------------------------------------------------------------------------


def test_stop_ends_a_running_task(site: Site) -> None:
    """It says that it was sent; who follows sees who asked and why, and exits with 125."""
    with site.start("run", "command", "--", "sleep", "60") as running:
        task_id = running.read_until("queued").split()[-1]
        running.read_until("started")
        done = site.jetrunner("stop", task_id, "--reason", "enough")
        assert (done.code, done.out, done.stderr) == (0, "", f"stop sent to {task_id}\n")
        assert running.end()[0] == 125
    termination = finish(site, task_id).termination
    assert termination == Termination(cause=Cause.STOP, signals=("SIGTERM",), by=whoami(), reason="enough")


def test_stop_takes_a_grace_and_kill_needs_none(site: Site) -> None:
    """A task that ignores SIGTERM ends when its grace does, or at once; --wait prints its final status."""
    for command, cause, signals in ((["stop", "--grace", "50ms"], "stop", 2), (["kill"], "kill", 1)):
        with site.start("run", "command", "--", "sh", "-c", "trap '' TERM; sleep 60") as running:
            task_id = running.read_until("queued").split()[-1]
            running.read_until("started")
            done = site.jetrunner(*command, "--wait", task_id)
            assert (done.code, done.out) == (0, "canceled\n")
        termination = finish(site, task_id).termination
        assert termination is not None
        assert (termination.cause, len(termination.signals)) == (cause, signals)


def test_stop_reaches_a_task_before_any_worker_does(idle_site: Site) -> None:
    """The task never starts."""
    task_id = submit(idle_site, "true")
    done = idle_site.jetrunner("stop", "--wait", "--timeout", "0.1", task_id)
    assert (done.code, done.stderr.splitlines()[0]) == (124, f"stop sent to {task_id}")
    with idle_site.worker():
        result = finish(idle_site, task_id)
    assert (result.status, result.start_time) == ("canceled", None)


def test_a_stop_changes_nothing_for_a_task_that_has_ended(site: Site) -> None:
    """It says so, and that is no error."""
    task_id = submit(site, "true")
    finish(site, task_id)
    done = site.jetrunner("stop", "--wait", task_id)
    assert (done.code, done.out) == (0, "success\n")
    assert done.stderr == f"the task {task_id} has ended already: success\n"


def test_stop_and_kill_take_whole_ids_only(idle_site: Site) -> None:
    """The beginning of an id is the id of nobody."""
    task_id = submit(idle_site, "true")
    commands = "stop", "kill"
    all_done = idle_site.jetrunner_each(*([command, task_id[:8]] for command in commands))
    for command, done in zip(commands, all_done, strict=True):
        assert done.code == 5
        assert done.stderr == f"jetrunner: there is no task {task_id[:8]}; a {command} takes the whole id\n"


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_an_id_may_be_cut_as_long_as_it_is_no_other_s(idle_site: Site) -> None:
    """Several that begin alike are named, five at most; a whole id wins over longer ones."""
    for name in ("build-1", "build-12", "build-13", "build-2", "build-3", "build-4", "deploy"):
        submit(idle_site, "true", id=name)
    cut, whole, several = idle_site.jetrunner_each(["status", "dep"], ["status", "build-1"], ["status", "build"])
    assert re.match(r"task +deploy\n", cut.out)
    assert re.match(r"task +build-1\n", whole.out)
    assert several.code == 2
    assert several.stderr == (
        "jetrunner: 6 tasks have an id that begins with build: build-1, build-12, build-13, build-2, build-3, …\n"
    )


def test_an_id_that_no_task_has(idle_site: Site) -> None:
    """5, and nothing on stdout."""
    commands = ["status", "result", "follow", "events", "stop", "kill"]
    for done in idle_site.jetrunner_each(*([command, "nobody"] for command in commands)):
        assert (done.code, done.out) == (5, "")
        assert re.fullmatch(r"jetrunner: there is no task nobody.*\n", done.stderr)


# -- workers -----------------------------------------------------------------------------------------------------------


def test_workers_are_listed_with_what_they_have_at_work(idle_site: Site, fifo: Path) -> None:
    """In every form; with none, it is said how to start one."""
    none = idle_site.jetrunner("workers", "-o", "id")
    assert (none.code, none.out) == (0, "")
    assert none.stderr == "no worker answers; start one with: jetrunner worker\n"
    with idle_site.worker(JETRUNNER_RUNNERS_SCRIPT_MAX_CONCURRENCY="3") as worker:
        submit(idle_site, "sh", "-c", WAIT, str(fifo), "0", id="busy")
        idle_site.call(lambda client: started(client, "busy"))
        forms = ("id", "json", "jsonl", "table")
        ids, json_, jsonl, table = idle_site.jetrunner_each(*(["workers", "-o", form] for form in forms))
        (state,) = json.loads(json_.out)
        assert json.loads(jsonl.out) == state
        assert ids.lines == [state["worker"]]
        assert state["worker"].startswith(f"{state['host']}-{state['pid']}-")
        of = {each["category"]: each for each in state["categories"]}
        command, script = of["command"], of["script"]
        assert (command["category"], command["slots"], command["busy"]) == ("command", 8, 1)
        assert [task["task_id"] for task in command["running"]] == ["busy"]
        assert (script["slots"], script["busy"]) == (3, 0)
        heading, row = table.lines
        assert heading.split() == ["WORKER", "HOST", "PID", "VERSION", "UP", "STATE", "BUSY", "CATEGORIES", "SERVER"]
        assert row.split()[0] == state["worker"]
        assert {"command 1/8", "script 0/3"} <= {f"{name} {each['busy']}/{each['slots']}" for name, each in of.items()}
        assert "command 1/8" in row
        told = json.loads(idle_site.jetrunner("status", "busy", "-o", "json").out)
        assert (told["worker"], told["worker_answers"]) == (state["worker"], True)
        os.kill(state["pid"], signal.SIGSTOP)
        try:
            silent = idle_site.jetrunner("status", "busy")
        finally:
            os.kill(state["pid"], signal.SIGCONT)
        assert f"{state['worker']} (does not answer)" in silent.out
        assert worker.process.poll() is None
        fifo.write_text("\n")
        assert finish(idle_site, "busy").status == "success"


# -- ls and events -----------------------------------------------------------------------------------------------------


async def started(client: Client, task_id: str) -> None:
    """Wait until a task has started."""
    async with aclosing(client.follow(task_id)) as items:
        async for item in items:
            if isinstance(item, Event) and item.type is EventType.STARTED:
                return


@pytest.fixture
def filled_site(idle_site: Site, fifo: Path) -> Iterator[Site]:
    """Have a site with the tasks last (pending), busy (running), bad (failed) and good, the newest first."""
    with idle_site.worker(JETRUNNER_UNKNOWN_CATEGORY_AFTER="1h"):
        finish(idle_site, submit(idle_site, "true", id="good"))
        finish(idle_site, submit(idle_site, "false", id="bad"))
        submit(idle_site, "sh", "-c", WAIT, str(fifo), "0", id="busy")
        idle_site.call(lambda client: started(client, "busy"))
        submit(idle_site, category="later", id="last")
        yield idle_site


def test_ls_lists_what_waits_runs_or_has_ended_newest_first(filled_site: Site) -> None:
    """By status, category, time and number, in every form."""

    expected = {
        "": ["last", "busy", "bad", "good"],
        "--limit 3": ["last", "busy", "bad"],
        "--status failed --status success": ["bad", "good"],
        "--status running": ["busy"],
        "--category later --status pending": ["last"],
        "--since 0": ["last", "busy"],
    }
    all_done = filled_site.jetrunner_each(*(["ls", "-o", "id", *options.split()] for options in expected))
    assert [done.lines for done in all_done] == [*expected.values()]


def test_ls_has_a_form_for_every_reader(filled_site: Site) -> None:
    """JSON lines, one JSON value, or a table that is cut nowhere."""
    jsonl, json_, table = filled_site.jetrunner_each(*(["ls", "-o", form] for form in ("jsonl", "json", "table")))
    assert [json.loads(line)["status"] for line in jsonl.lines] == ["pending", "running", "failed", "success"]
    _, _, bad, _ = json.loads(json_.out)
    assert (bad["task_id"], bad["category"], bad["exit_code"]) == ("bad", "command", 1)
    assert bad["started"] <= bad["ended"]
    heading, *rows = table.lines
    assert heading.split() == ["ID", "CATEGORY", "STATUS", "AGE", "DURATION", "EXIT", "ERROR", "WORKER"]
    assert rows[2].split()[:3] == ["bad", "command", "failed"]
    assert bad["worker"] in rows[2]


def test_ls_knows_tasks_whose_events_have_gone(filled_site: Site) -> None:
    """Their Results tell."""
    stream = filled_site.subjects.events_stream
    filled_site.connected(lambda connection: api(connection, f"STREAM.PURGE.{stream}"))
    assert filled_site.jetrunner("ls", "-o", "id", "--status", "failed", "--status", "success").lines == ["bad", "good"]


def test_events_are_printed_in_order_until_there_are_no_more(filled_site: Site) -> None:
    """Of one task or all, of some types, of some time, as JSON lines or for people."""

    good = [("good", "received"), ("good", "started"), ("good", "finished")]
    bad = [("bad", "received"), ("bad", "started"), ("bad", "finished")]
    expected = {
        "go": good,
        "--type finished": [good[2], bad[2]],
        "bad --type started --type finished": bad[1:],
        "--since 0": [],
        "--since 1h": [*good, *bad, ("busy", "received"), ("busy", "started")],
    }
    all_done = filled_site.jetrunner_each(*(["events", *options.split()] for options in expected))
    for done, events in zip(all_done, expected.values(), strict=True):
        assert (done.code, done.stderr) == (0, "")
        assert [(event["task_id"], event["type"]) for event in map(json.loads, done.lines)] == events


def test_events_are_for_people_if_wanted(filled_site: Site) -> None:
    """A line each."""
    line = filled_site.jetrunner("events", "bad", "-o", "table").lines[-1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} +bad +finished +command +status=failed exit_code=1 .*", line)


def test_events_can_be_followed(site: Site) -> None:
    """Each is printed when it comes; an interrupt ends it with 130."""
    with site.start("events", "-f", "--type", "finished") as following:
        assert following.process.stdout is not None
        following.process.stdout.readline()
        task_id = submit(site, "true")
        assert any(task_id.encode() in line for line in following.process.stdout)
        following.process.send_signal(signal.SIGINT)
        code, _ = following.end()
    assert code == 130
    assert following.said == b""


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_mistake_is_one_sentence_on_stderr(empty_site: Site) -> None:
    """2 for what was typed, 4 for a server that is not there; never a traceback."""
    mistakes = {
        "`timeout`: expected a duration": (2, ["run", "--timeout", "soon", "command", "--", "true"]),
        "Unknown command": (2, ["sumbit"]),
        "cannot connect to nats://127.0.0.1:1": (4, ["status", "--server", "nats://127.0.0.1:1", "x"]),
    }
    all_done = empty_site.jetrunner_each(*(args for _, args in mistakes.values()))
    for done, (text, (code, _)) in zip(all_done, mistakes.items(), strict=True):
        assert (done.code, done.out) == (code, "")
        assert re.fullmatch(rf"jetrunner: .*{text}.*\n", done.stderr)


def test_without_streams_it_is_said_how_to_make_them(empty_site: Site) -> None:
    """1, and the command that helps."""
    stream = empty_site.subjects.tasks_stream
    calls = (["submit", "command", "--", "true"], ["stop", "x"], ["ls"], ["events"])
    for done in empty_site.jetrunner_each(*calls):
        assert (done.code, done.out) == (1, "")
        assert done.stderr == f"jetrunner: the stream {stream} does not exist; make it with: jetrunner init\n"


def test_a_task_that_the_server_cannot_take_is_refused_here(idle_site: Site) -> None:
    """Sent, it would cost us the connection."""
    done = idle_site.jetrunner("submit", "--stdin", "-", "command", "--", "cat", stdin=b"x" * 2**20)
    assert done.code == 2
    assert re.fullmatch(r"jetrunner: the task has \d+ bytes, but the server takes 1048576 at most\n", done.stderr)


@pytest.mark.parametrize("call", ["import consumer.cli", "from consumer import cli; cli.main(['--help'])"])
def test_help_loads_nothing_that_it_does_not_need(call: str) -> None:
    """Neither nats nor anything else is imported before a command needs it."""
    heavy = "{'nats', 'anyio', 'msgspec', 'httpx', 'docker', 'opentelemetry'}"
    program = f"import sys; {call}; print(*sorted({heavy} & sys.modules.keys()), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stderr.split() == []
