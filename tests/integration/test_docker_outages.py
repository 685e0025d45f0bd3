"""Tests of DockerRunner with an engine that is down, hangs, drops its connections, or begins again."""

import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from runners.command import CommandRunner
from runners.docker import Engine
from runners.docker.engine import THREADS
from runners.docker.verdict import RefusedError
from runners.errors import DockerUnavailableError
from schemas import Cause, Result, Status
from tests.conftest import Dockerd, client
from tests.integration.docker_proxy import Proxy
from tests.integration.docker_runs import LONG, PATIENCE, READY_AND_SLEEP, Run

pytestmark = [
    pytest.mark.anyio,
    # The library leaves a socket that it could not connect to its garbage collection.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


IMPATIENCE = 1.5
"""Seconds after which these tests give up on an engine."""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect the library's garbage while nobody minds."""
    yield
    gc.collect()


@pytest.fixture
async def proxy(engine_url: str) -> AsyncIterator[Proxy]:
    """Have a proxy in front of the engine."""
    async with Proxy(engine_url) as proxy:
        yield proxy


@pytest.fixture
async def engine(proxy: Proxy, engine_url: str) -> AsyncIterator[Engine]:
    """Have an engine behind the proxy, on which a test leaves no container."""
    engine = Engine(proxy.url, patience=IMPATIENCE)
    try:
        yield engine
        with client(engine_url) as docker:
            assert docker.containers(all=True, filters={"label": "jetrunner.task"}) == []
    finally:
        engine.close()


def ended(result: Result | None) -> tuple[Status, int | None, str | None]:
    """Return how a run ended."""
    assert result is not None
    return result.status, result.exit_code, result.error_code


async def test_an_engine_that_is_not_there() -> None:
    """The task is told at once, may be tried again, and nothing was started."""
    engine = Engine("unix:///nosuch/docker.sock")
    result = await Run(engine, command="true").to_its_end()
    assert ended(result) == (Status.ERROR, None, "docker_unavailable")
    assert result.error == "the Docker engine cannot be reached: No such file or directory"
    assert (result.retryable, result.start_time) == (True, None)
    assert engine.obstacle == result.error


async def test_an_engine_elsewhere_that_we_cannot_use() -> None:
    """A scheme that is not supported is an engine that cannot be reached."""
    result = await Run(Engine("nonsense://x"), command="true").to_its_end()
    assert ended(result) == (Status.ERROR, None, "docker_unavailable")


async def test_an_engine_that_comes_back_is_noticed(proxy: Proxy, engine: Engine) -> None:
    """Whoever waits for it is told, without a task."""
    await proxy.refuse()
    with pytest.raises(DockerUnavailableError):
        await engine.probe()
    with anyio.fail_after(PATIENCE):
        assert "cannot be reached" in await engine.wait_obstacle()
        async with anyio.create_task_group() as group:
            group.start_soon(engine.wait_ready)
            await anyio.lowlevel.checkpoint()
            await proxy.accept()
    assert engine.obstacle is None
    assert ended(await Run(engine, command="true").to_its_end()) == (Status.SUCCESS, 0, None)


async def test_an_engine_that_hangs_before_the_start(proxy: Proxy, engine: Engine) -> None:
    """A probe finds out, in a few seconds and not in a minute; the loop goes on."""
    proxy.hang()
    begin = time.monotonic()
    result = await Run(engine, command="true").to_its_end()
    assert ended(result) == (Status.ERROR, None, "docker_unresponsive")
    assert time.monotonic() - begin < IMPATIENCE + 5
    assert result.retryable


async def test_an_engine_that_hangs_in_mid_task_holds_up_no_time_out(proxy: Proxy, engine: Engine) -> None:
    """The Result is there, its container is owed, and is removed once the engine answers."""
    run = Run(engine, script=READY_AND_SLEEP, timeout=2, grace=LONG)
    async with run.ready():
        proxy.hang()
    result = run.runner.result
    assert ended(result) == (Status.TIMEOUT, None, "docker_unresponsive")
    assert result is not None
    assert (result.cleanup, result.output, result.output_complete) == ("pending", "ready\n", False)
    assert result.termination is not None
    assert result.termination.cause is Cause.TIMEOUT
    proxy.flow()
    await engine.wait_ready()
    assert await engine.reconcile() == [run.recorder.container]


async def test_an_engine_that_hangs_holds_up_nobody_else(proxy: Proxy, engine: Engine) -> None:
    """With more stuck tasks than threads, another category's tasks go on, and all the stuck ones get their Results."""
    proxy.hang()
    stuck = [Run(engine, command="true", id=f"t-{number}") for number in range(30)]
    with anyio.fail_after(2 * PATIENCE):
        async with anyio.create_task_group() as group:
            for run in stuck:
                group.start_soon(run.runner.execute)
            for _ in range(10):
                command = CommandRunner()
                command.parse_args("true", "")
                assert (await command.execute()).status is Status.SUCCESS
            assert not any(run.runner.result for run in stuck)
    assert {ended(run.runner.result) for run in stuck} == {(Status.ERROR, None, "docker_unresponsive")}


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_container_outlives_its_connection(*, proxy: Proxy, engine: Engine, is_away: bool) -> None:
    """It is found again, and its output is taken up; that some is missing is said, and the end is its own."""
    script = "echo ready; trap 'echo later; exit 3' TERM; while :; do sleep 0.1; done"
    run = Run(engine, script=script)
    async with run.ready():
        if is_away:
            await proxy.refuse()
            with anyio.fail_after(PATIENCE):
                await engine.wait_obstacle()
            await proxy.accept()
        else:
            await proxy.drop()
        await reattached(run)
        with client(proxy_target(proxy)) as docker:
            docker.kill(run.recorder.container, signal="SIGTERM")
    result = run.runner.result
    assert ended(result) == (Status.FAILED, 3, "exit_nonzero")
    assert result is not None
    assert (result.output, result.output_complete) == ("ready\nlater\n", False)
    assert result.warnings == ("the connection to the Docker engine broke: some output is missing",)


async def test_a_container_that_was_away_can_be_stopped(proxy: Proxy, engine: Engine) -> None:
    """It is the task's as before."""
    run = Run(engine, script=READY_AND_SLEEP)
    async with run.ready():
        await proxy.drop()
        await reattached(run)
        run.runner.stop()
    assert ended(run.runner.result) == (Status.CANCELED, 143, "stopped")


async def test_calls_that_take_their_time_hold_up_no_others(engine: Engine) -> None:
    """However many containers are being stopped, there is a thread for the next question."""
    release = threading.Event()
    try:
        async with anyio.create_task_group() as group:
            for _ in range(THREADS + 1):
                group.start_soon(partial(engine.call, lambda _: release.wait(), patience=PATIENCE, lasting=True))
            await anyio.lowlevel.checkpoint()
            await engine.probe()
            release.set()
    finally:
        release.set()


async def test_a_refusal_is_an_answer(engine: Engine) -> None:
    """An engine that says no is there."""
    with pytest.raises(RefusedError):
        await engine.call(lambda sdk: sdk.inspect("nosuch"))
    assert engine.obstacle is None


async def test_a_stop_while_the_engine_is_away(proxy: Proxy, engine: Engine) -> None:
    """The task ends as it was told; its container does when the engine is back."""
    run = Run(engine, script=READY_AND_SLEEP)
    async with run.ready():
        await proxy.refuse()
        run.runner.stop()
    result = run.runner.result
    assert ended(result) == (Status.CANCELED, None, "stopped")
    assert result is not None
    assert result.cleanup == "pending"
    await proxy.accept()
    await engine.wait_ready()
    assert await engine.reconcile() == [run.recorder.container]


async def test_the_house_is_kept_when_the_engine_is_back(proxy: Proxy, engine: Engine) -> None:
    """No minute passes before what is owed is removed."""
    run = Run(engine, script=READY_AND_SLEEP)
    async with run.ready():
        await proxy.refuse()
        run.runner.kill()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(engine.serve)
            await proxy.accept()
            with client(proxy_target(proxy)) as docker:
                while docker.containers(all=True, filters={"id": run.recorder.container}):  # noqa: ASYNC110 - no event tells
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()


async def test_a_frozen_engine(dockerd: Dockerd) -> None:
    """A real one that stands still is as one that hangs."""
    engine = Engine(dockerd.url, patience=IMPATIENCE)
    run = Run(engine, script=READY_AND_SLEEP, timeout=1, grace=LONG)
    try:
        async with run.ready():
            dockerd.freeze()
    finally:
        dockerd.thaw()
    assert ended(run.runner.result) == (Status.TIMEOUT, None, "docker_unresponsive")
    await engine.wait_ready()
    assert await engine.reconcile() == [run.recorder.container]
    engine.close()


async def test_an_engine_that_begins_again(dockerd: Dockerd) -> None:
    """Its containers end with it, which is not their task's fault: lost, and to be tried again."""
    engine = Engine(dockerd.url)
    run = Run(engine, script=READY_AND_SLEEP)
    async with run.ready():
        await anyio.to_thread.run_sync(dockerd.stop)
        await anyio.to_thread.run_sync(dockerd.start)
    result = run.runner.result
    assert ended(result) == (Status.ERROR, None, "container_lost")
    assert ended(await Run(engine, command="true").to_its_end()) == (Status.SUCCESS, 0, None)
    assert await engine.reconcile() == []
    engine.close()


def proxy_target(proxy: Proxy) -> str:
    """Return where the engine behind a proxy answers."""
    return f"unix://{proxy._target}"


async def reattached(run: Run) -> None:
    """Wait until a container's streams have been taken over again."""
    with anyio.fail_after(PATIENCE):
        while run.runner.report.output_complete:  # noqa: ASYNC110 - no event tells
            await anyio.sleep(0.02)
