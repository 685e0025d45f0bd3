"""`jetrunner worker` as people start and end it: a process below its keeper, on a real nats-server or its own."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from consumer.client import Client
from consumer.connection import Connection
from consumer.jetstream import api
from runners.process.keeper import PIPES_VARIABLE, children
from schemas import Result, Status, Task
from tests.acceptance.conftest import COMMAND, PATIENCE, READY, Running, Server, Site, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="keepers are Linux's")

WITHOUT_KEEPER = {"JETRUNNER_WORKER_KEEPER": "false"}
PATIENT = {"JETRUNNER_WORKER_DRAIN_TIMEOUT": "60"}

GLIBC_S_OWN: Final = 0b11 << 31
"""Signals 32 and 33, which a process that glibc's posix_spawn(3) has started ignores, and cannot help it."""
HOLD = 'echo up >"$0"; read _ <"$1"; echo released'
"""A script that says on a FIFO that it is up, and goes on when something is written to another."""
ESCAPE = 'sleep 600 & setsid sleep 600 & (setsid sh -c "sleep 600 & sleep 600" &); echo up >"$0"; wait'
"""A script with descendants in its group, in another session, and with no parent."""


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """Know all processes that a worker starts, its tasks too, by a TMPDIR of the test's own."""
    return f"TMPDIR={tmp_path}"


@pytest.fixture
def marked_site(mark: str, idle_site: Site) -> Site:
    """Have a site of the test's own with streams, whose processes bear the mark."""
    idle_site.environ["TMPDIR"] = mark.removeprefix("TMPDIR=")
    return idle_site


@pytest.fixture
def up(tmp_path: Path) -> Path:
    """Have a FIFO that a task writes to when it is up."""
    return fifo(tmp_path / "up")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Have a FIFO that holds a task until it is written to."""
    return fifo(tmp_path / "release")


@pytest.fixture
def homeless_site(mark: str, shared_server: Server, tmp_path: Path) -> Site:
    """Have a site without a configured server."""
    site = Site(shared_server, tmp_path)
    del site.environ["JETRUNNER_NATS_URL"]
    site.environ["TMPDIR"] = mark.removeprefix("TMPDIR=")
    return site


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def submit(site: Site, *argv: str, task_id: str = "task") -> None:
    given = Task(id=task_id, command=argv[0], args=[*argv[1:]])
    site.call(lambda client: client.submit("command", given))


def finish(site: Site, *argv: str) -> Result:
    """Submit a task and wait for its Result."""

    async def both(client: Client) -> Result:
        return await client.wait(await client.submit("command", Task(command=argv[0], args=[*argv[1:]])))

    return site.call(both)


def stored(site: Site) -> tuple[int, int]:
    """Count the tasks in the stream, and the Results."""

    async def count(connection: Connection) -> tuple[int, int]:
        streams = site.subjects.tasks_stream, site.subjects.results_stream
        tasks, results = [int((await api(connection, f"STREAM.INFO.{name}"))["state"]["messages"]) for name in streams]
        return tasks, results

    return site.connected(count)


def inner(running: Running, **environ: str) -> int:
    """Return the pid of the worker: it is its keeper's only child, in a session of its own, if it has a keeper."""
    pid = running.process.pid
    if environ == WITHOUT_KEEPER:
        return pid
    (worker,) = children(pid)
    assert os.getsid(worker) == worker
    assert b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return worker


# -- the keeper and the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "environ"),
    [(signal.SIGTERM, {}), (signal.SIGINT, {}), (signal.SIGTERM, WITHOUT_KEEPER), (signal.SIGINT, WITHOUT_KEEPER)],
)
def test_a_signal_drains(
    marked_site: Site, mark: str, up: Path, release: Path, *, number: signal.Signals, environ: dict[str, str]
) -> None:
    """What runs may end, what waits stays in the queue, and the exit code is 0; with a keeper or without."""
    with marked_site.start("worker", "--concurrency", "1", **PATIENT, **environ) as worker:
        ready = worker.read_until(READY)
        assert f"-{inner(worker, **environ)}-" in ready
        submit(marked_site, "sh", "-c", HOLD, str(up), str(release))
        assert up.read_text() == "up\n"
        submit(marked_site, "true", task_id="queued")
        worker.process.send_signal(number)
        worker.read_until("draining: 1 at work")
        release.write_text("\n")
        assert worker.end() == (0, "")
    result = marked_site.call(lambda client: client.result("task"))
    assert result is not None
    assert (result.status, result.output) == (Status.SUCCESS, "released\n")
    assert stored(marked_site) == (1, 1)
    assert processes(mark) == []


@pytest.mark.parametrize("environ", [{}, WITHOUT_KEEPER])
def test_a_second_signal_gives_running_tasks_back(
    marked_site: Site, mark: str, up: Path, release: Path, environ: dict[str, str]
) -> None:
    """They end now, without a Result, and are in the queue again; the exit code is still 0."""
    with marked_site.start("worker", **PATIENT, **environ) as worker:
        worker.read_until(READY)
        submit(marked_site, "sh", "-c", HOLD, str(up), str(release))
        assert up.read_text() == "up\n"
        worker.process.terminate()
        worker.read_until("draining: 1 at work")
        worker.process.terminate()
        assert worker.end() == (0, "")
    assert stored(marked_site) == (1, 0)
    assert processes(mark) == []


def test_nothing_outlives_a_killed_worker(marked_site: Site, mark: str, up: Path) -> None:
    """After its kill -9, nothing of its task is left when the keeper exits, with 137; the task is not lost."""
    with marked_site.start("worker") as keeper:
        keeper.read_until(READY)
        submit(marked_site, "sh", "-c", ESCAPE, str(up))
        assert up.read_text() == "up\n"
        os.kill(inner(keeper), signal.SIGKILL)
        assert keeper.process.wait(PATIENCE) == 137
        assert processes(mark) == []
    assert stored(marked_site) == (1, 0)


def test_nothing_outlives_a_killed_keeper(marked_site: Site, mark: str, up: Path) -> None:
    """After its kill -9, the worker says so, ends its tasks, gives them back, and exits."""
    with marked_site.start("worker", **PATIENT) as keeper:
        keeper.read_until(READY)
        submit(marked_site, "sh", "-c", ESCAPE, str(up))
        assert up.read_text() == "up\n"
        keeper.process.kill()
        keeper.read_until("keeper_lost")
        keeper.read_until("the worker has ended")
        assert keeper.end() == (-signal.SIGKILL, "")
    await_no(mark)
    assert stored(marked_site) == (1, 0)


def await_no(mark: str) -> None:
    """Wait until each of the processes that are there now, and bear a mark, has ended."""
    for pid in processes(mark):
        with suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as ended:
            assert select.select([ended], [], [], PATIENCE)[0]
    assert processes(mark) == []


# -- the embedded server -----------------------------------------------------------------------------------------------


def test_without_a_server_one_is_started(homeless_site: Site, mark: str, tmp_path: Path) -> None:
    """A second worker and other commands find it, its store is in the data directory, and it ends with its owner."""
    with homeless_site.start("worker", "--category", "command") as owner:
        started = owner.read_until("started one at nats://127.0.0.1:")
        assert f"its store in {tmp_path}/jetrunner" in started
        owner.read_until(READY)
        with homeless_site.worker() as second:
            assert b"found ours at nats://127.0.0.1:" in second.said
            done = homeless_site.jetrunner("run", "-q", "command", "--", "echo", "found")
            assert (done.code, done.out, done.stderr) == (0, "found\n", "")
        assert second.process.returncode == 0
        owner.process.terminate()
        assert owner.end() == (0, "")
    assert (tmp_path / "jetrunner" / "jetstream").is_dir()
    assert processes(mark) == []
    done = homeless_site.jetrunner("ls")
    assert (done.code, done.stderr.count("\n")) == (4, 1)


@pytest.mark.parametrize("victim", ["worker", "keeper"])
def test_the_embedded_server_ends_with_its_killed_owner(homeless_site: Site, mark: str, victim: str) -> None:
    """Neither the worker's kill -9 nor the keeper's leaves a server behind."""
    with homeless_site.start("worker") as keeper:
        keeper.read_until(READY)
        os.kill(inner(keeper) if victim == "worker" else keeper.process.pid, signal.SIGKILL)
        keeper.end()
    await_no(mark)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_in_one_sentence(empty_site: Site, tmp_path: Path) -> None:
    """A wrong configuration is exit code 2, and no server, or one that says nothing, is 4; all within PATIENCE."""
    (tmp_path / "wrong.toml").write_text("[worker]\nkeper = false\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said = {
            (4, address): ["--server", f"nats://{address}"],
            (4, "cannot connect to nats://127.0.0.1:1: "): ["--server", "nats://127.0.0.1:1"],
            (2, "did you mean `worker.keeper`?"): ["--config", "wrong.toml"],
            (2, "absent.toml cannot be read"): ["--config", "absent.toml"],
            (2, "'comand', which no runner is registered for"): ["--category", "comand"],
            (2, "--concurrency"): ["--concurrency", "0"],
            (2, "no nats context 'absent'"): ["--context", "absent"],
            (2, "is not the URL of a server"): ["--server", "http://localhost"],
        }
        all_done = empty_site.jetrunner_each(*(["worker", *args] for args in said.values()))
    for (code, text), done in zip(said, all_done, strict=True):
        assert (done.code, done.out, done.stderr.count("\n")) == (code, "", 1), done.stderr
        assert text in done.stderr


def test_a_variable_that_is_wrong(empty_site: Site) -> None:
    """It is named."""
    done = empty_site.jetrunner("worker", JETRUNNER_WORKER_KEEPER="perhaps")
    assert (done.code, done.out) == (2, "")
    assert done.stderr.startswith("jetrunner: JETRUNNER_WORKER_KEEPER: ")


# -- what tasks inherit ------------------------------------------------------------------------------------------------


@pytest.fixture
def nohup_worker(marked_site: Site, tmp_path: Path) -> Iterator[Running]:
    """Have a worker that was started with signals ignored, a secret in its environment, and no terminal."""
    ignoring = ["sh", "-c", 'trap "" INT QUIT HUP PIPE CHLD USR1; exec "$@"', "sh", COMMAND, "worker"]
    process = subprocess.Popen(
        ignoring, env={**marked_site.environ, "A_SECRET": "s3cret"}, cwd=tmp_path, stderr=subprocess.PIPE
    )
    with Running(process) as worker:
        worker.read_until(READY)
        yield worker


def test_a_task_inherits_nothing_from_its_worker(marked_site: Site, mark: str, nohup_worker: Running) -> None:
    """Not the signals that it ignores or blocks, nor its environment, nor its descriptors; its log is JSON."""
    masks = finish(marked_site, "grep", "-E", "Sig(Ign|Blk)", "/proc/self/status").output
    blocked, ignored = (int(line.split()[1], 16) for line in masks.splitlines())
    assert (blocked, ignored & ~GLIBC_S_OWN) == (0, 0)
    names = {line.partition("=")[0] for line in finish(marked_site, "env").output.splitlines()}
    assert PIPES_VARIABLE not in names
    ours = {"HOME", "LANG", "PATH", "TMPDIR", "USER", "TASK_ATTEMPT", "TASK_ID", "TASK_INSTANCE"}
    assert names - {"TZ"} == ours
    assert finish(marked_site, "ls", "/proc/self/fd").output.split() == ["0", "1", "2", "3"]
    nohup_worker.process.send_signal(signal.SIGTERM)
    nohup_worker.read_until("the worker has ended")
    assert nohup_worker.process.wait(PATIENCE) == 0
    logged = [json.loads(line) for line in nohup_worker.said.splitlines()]
    assert {tuple(line)[:4] for line in logged} == {("time", "level", "logger", "message")}
    assert processes(mark) == []
