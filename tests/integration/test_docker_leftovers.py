"""Tests of what becomes of containers whose worker is dead, frozen or cut off: nobody's container stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from runners.docker import Engine
from runners.docker.owner import Owner
from runners.docker.spec import DEADLINE_LABEL, LOCK_LABEL
from runners.process import keeper
from schemas import Status
from tests.conftest import IMAGE, client
from tests.integration.docker_runs import PATIENCE, READY_AND_SLEEP, Run

pytestmark = pytest.mark.anyio

WORKER = """
import os, sys
import anyio
sys.path.insert(0, {root!r})
from runners.process import KeeperLink
from runners.docker import DockerRunner, Engine
from runners.context import Context
from schemas import Task

class Said:
    def started(self, data): print(data["container"], flush=True)
    def progress(self, data): pass
    def stopping(self, data): pass
    def output(self, stream, offset, chunk): pass

runner = DockerRunner(Engine({url!r}))
runner.context = Context(task=Task(id="t-1"), worker="w-dead", reporter=Said(), keeper=KeeperLink.of(os.environ))
runner.parse_args("sh", {{"image": {image!r}, "args": ["-c", {script!r}]}})
anyio.run(runner.execute)
"""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Engine]:
    """Have an engine on which a test leaves no container."""
    engine = Engine(engine_url)
    try:
        yield engine
        with client(engine_url) as docker:
            assert docker.containers(all=True, filters={"label": "jetrunner.lock"}) == []
    finally:
        engine.close()


@contextmanager
def worker(url: str, *under: str, script: str = READY_AND_SLEEP) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Have a process that runs a container; yield it, and the container's id."""
    program = WORKER.format(root=str(Path(keeper.__file__).parents[2]), url=url, image=IMAGE, script=script)
    process = subprocess.Popen([*under, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def create(url: str, lock: str, *, name: str | None = None, **labels: Any) -> str:
    """Make a container as a worker does, that sleeps; return its id."""
    with client(url) as docker:
        given = {LOCK_LABEL: lock, DEADLINE_LABEL: f"{time.time() + 600:.0f}", **labels}
        config = docker.create_host_config(init=True)
        container = docker.create_container(IMAGE, ["sleep", "600"], name=name, labels=given, host_config=config)
        docker.start(container)
        return str(container["Id"])


def runs(url: str, container: str) -> bool:
    """Tell whether a container is there and runs."""
    with client(url) as docker:
        return bool(docker.containers(filters={"id": container}))


async def test_a_container_of_a_killed_worker_is_removed(engine: Engine, engine_url: str) -> None:
    """As long as its worker lives it is left alone; then anyone removes it, and the worker's lock."""
    with worker(engine_url) as (process, container):
        assert await engine.reconcile() == []
        with client(engine_url) as docker:
            lock = docker.inspect_container(container)["Config"]["Labels"][LOCK_LABEL]
        process.kill()
        process.wait(PATIENCE)
        assert await engine.reconcile() == [container]
        assert not runs(engine_url, container)
        assert not await anyio.Path(lock).exists()


async def test_a_frozen_worker_keeps_its_container_until_the_deadline(engine: Engine, engine_url: str) -> None:
    """Nobody can tell it from a busy one, but it cannot want the container for ever."""
    with worker(engine_url) as (process, container):
        process.send_signal(signal.SIGSTOP)
        assert await engine.reconcile() == []
        process.kill()
        process.wait(PATIENCE)
        assert await engine.reconcile() == [container]


async def test_a_deadline_that_has_passed(engine: Engine, engine_url: str) -> None:
    """Whoever the owner is: the container is removed."""
    owner = Owner()
    try:
        late = create(engine_url, owner.path, **{DEADLINE_LABEL: f"{time.time() - 1:.0f}"})
        in_time = create(engine_url, owner.path)
        assert await engine.reconcile() == [late]
        assert runs(engine_url, in_time)
    finally:
        owner.leave(owing=True)
    assert await engine.reconcile() == [in_time]


async def test_a_container_of_ours_that_no_task_has(engine: Engine, engine_url: str) -> None:
    """One that the engine created behind a time-out is removed; those of tasks at work are not."""
    await engine.probe()
    stray = create(engine_url, engine.lock)
    run = Run(engine, script=READY_AND_SLEEP, grace=0)
    async with run.ready():
        assert await engine.reconcile() == [stray]
        assert runs(engine_url, run.recorder.container)
        run.runner.kill()
    assert run.runner.result is not None
    assert run.runner.result.status is Status.CANCELED


async def test_containers_that_are_not_ours_are_left_alone(engine: Engine, engine_url: str) -> None:
    """Without our labels, nothing is."""
    with client(engine_url) as docker:
        foreign = docker.create_container(IMAGE, "true")
        assert await engine.reconcile() == []
        docker.remove_container(foreign)


async def test_a_dead_workers_container_makes_way_for_its_successor(engine: Engine, engine_url: str) -> None:
    """The task comes again, under the same name, and runs."""
    owner = Owner()
    dead = create(engine_url, owner.path, name="jetrunner-t-1-1")
    owner.leave(owing=True)
    result = await Run(engine, command="true").to_its_end()
    assert result.status is Status.SUCCESS
    assert not runs(engine_url, dead)


async def test_a_live_workers_container_stays_beside_its_successor(engine: Engine, engine_url: str) -> None:
    """A worker that is cut off keeps what it has; the copy runs beside it, under another name."""
    owner = Owner()
    theirs = create(engine_url, owner.path, name="jetrunner-t-1-1")
    try:
        result = await Run(engine, command="true").to_its_end()
        assert result.status is Status.SUCCESS
        assert runs(engine_url, theirs)
    finally:
        owner.leave(owing=True)
        await engine.reconcile()


async def test_the_house_is_kept_at_once(engine: Engine, engine_url: str) -> None:
    """A worker that begins removes what others have left, before a minute is over."""
    owner = Owner()
    left = create(engine_url, owner.path)
    owner.leave(owing=True)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(engine.serve)
            while runs(engine_url, left):  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.05)
            group.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="keepers are Linux's")
@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
async def test_the_keeper_ends_the_containers_of_its_worker(engine: Engine, engine_url: str, trap: str) -> None:
    """When the keeper is gone, so are they: after a kill -9, within its grace and a moment."""
    under = [sys.executable, "-I", "-S", "-E", keeper.__file__]
    script = trap + "echo ready; while :; do sleep 0.1; done"
    with worker(engine_url, *under, script=script) as (process, container):
        assert runs(engine_url, container)
        os.kill(keeper.children(process.pid)[0], signal.SIGKILL)
        assert process.wait(keeper.GRACE + PATIENCE) == 137
        with client(engine_url) as docker:
            assert docker.containers(all=True, filters={"id": container}) == []
    assert await engine.reconcile() == []


@pytest.mark.skipif(sys.platform != "linux", reason="keepers are Linux's")
def test_a_keeper_whose_engine_is_gone_ends_all_the_same(tmp_path: Path) -> None:
    """What cannot be reached holds it up for no longer than it has patience."""
    program = (
        "import os; os.write(int(os.environ['_JETRUNNER_KEEPER'].split(',')[1]), "
        f"b'containers jetrunner.lock=x {tmp_path}/nosuch.sock\\n'); os.kill(os.getpid(), 9)"
    )
    under = [sys.executable, "-I", "-S", "-E", keeper.__file__]
    assert subprocess.run([*under, sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 137
