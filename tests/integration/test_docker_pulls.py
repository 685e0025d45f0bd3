"""Tests of how DockerRunner comes by an image: never, if it is missing, always; and from what kind of registry."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import docker.errors  # type: ignore[import-untyped]
import pytest

from runners.docker import Engine
from schemas import ErrorClass, Result, Status
from tests.conftest import IMAGE, client
from tests.integration.docker_registry import Registry, serving
from tests.integration.docker_runs import PATIENCE, Run

pytestmark = pytest.mark.anyio

REFUSING = "127.0.0.1:1/image"


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Engine]:
    """Have an engine."""
    engine = Engine(engine_url)
    yield engine
    engine.close()


@pytest.fixture
def registry(engine_url: str) -> Iterator[Registry]:
    """Have a registry on this machine, whose image the engine does not have yet, nor keeps."""
    with serving(Path(str(shutil.which("busybox"))).read_bytes()) as registry:
        yield registry
        with client(engine_url) as engine, suppress(docker.errors.ImageNotFound):
            engine.remove_image(registry.image, force=True)


def ended(result: Result | None) -> tuple[Status, ErrorClass | None, str | None]:
    """Return how a run ended."""
    assert result is not None
    return result.status, result.error_class, result.error_code


async def test_a_missing_image_is_pulled(engine: Engine, registry: Registry) -> None:
    """Progress tells of it, the tag is `latest`, and the second task finds the image there."""
    run = Run(engine, {"image": registry.image})
    result = await run.to_its_end()
    assert (ended(result), result.output) == ((Status.SUCCESS, None, None), "pulled\n")
    assert run.recorder.steps[0] == {"stage": "pull", "image": registry.image, "status": "begun"}
    assert run.recorder.steps[-1] == {"stage": "pull", "image": registry.image, "status": "done"}
    assert f"/v2/{registry.image.partition('/')[2]}/manifests/latest" in registry.asked
    assert not any("tags/list" in path for path in registry.asked)
    assert run.runner._name == "jetrunner-t-1-1"
    asked = len(registry.asked)
    again = Run(engine, {"image": registry.image})
    assert (await again.to_its_end()).status is Status.SUCCESS
    assert (len(registry.asked), again.recorder.steps) == (asked, [])


async def test_always_asks_the_registry(engine: Engine, registry: Registry) -> None:
    """Even for an image that is there."""
    await Run(engine, {"image": registry.image}).to_its_end()
    asked = len(registry.asked)
    assert (await Run(engine, {"image": registry.image, "pull": "always"}).to_its_end()).status is Status.SUCCESS
    assert len(registry.asked) > asked


async def test_never_pulls_nothing(engine: Engine, registry: Registry) -> None:
    """A missing image is then the end."""
    run = Run(engine, {"image": registry.image, "pull": "never"})
    assert ended(await run.to_its_end()) == (Status.FAILED, ErrorClass.EXECUTION, "image_not_found")
    assert (registry.asked, run.recorder.steps) == ([], [])
    assert (await Run(engine, {"image": IMAGE, "pull": "never"}, command="true").to_its_end()).status is Status.SUCCESS


@pytest.mark.parametrize("tag", [":nosuch", f"@sha256:{'0' * 64}"])
async def test_an_image_that_its_registry_does_not_have(engine: Engine, registry: Registry, tag: str) -> None:
    """That is the task's fault, and another try would be no better."""
    result = await Run(engine, {"image": registry.image + tag}).to_its_end()
    assert ended(result) == (Status.FAILED, ErrorClass.EXECUTION, "image_not_found")
    assert not result.retryable


@pytest.mark.parametrize("pull", ["if_missing", "always"])
async def test_a_registry_that_refuses(engine: Engine, pull: str) -> None:
    """That is the network's fault, and may be tried again."""
    result = await Run(engine, {"image": REFUSING, "pull": pull}).to_its_end()
    assert ended(result) == (Status.ERROR, ErrorClass.NETWORK, "image_pull_failed")
    assert "connection refused" in result.error
    assert result.retryable
    assert engine.obstacle is None


async def test_a_pull_has_a_time_limit_of_its_own(engine: Engine, registry: Registry) -> None:
    """The task's time-out does not count yet, and the engine is not to blame."""
    registry.open.clear()
    run = Run(engine, {"image": registry.image, "pull_timeout": 1}, timeout=0.1)
    result = await run.to_its_end()
    assert ended(result) == (Status.ERROR, ErrorClass.NETWORK, "image_pull_failed")
    assert "within 1 s" in result.error
    assert engine.obstacle is None


async def test_a_stop_ends_a_pull(engine: Engine, registry: Registry) -> None:
    """Nobody waits for the registry."""
    registry.open.clear()
    run = Run(engine, {"image": registry.image})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(run.runner.execute)
            await run.recorder.until(lambda: bool(run.recorder.steps))
            run.runner.stop(by="me")
    result = run.runner.result
    assert ended(result) == (Status.CANCELED, ErrorClass.EXECUTION, "stopped")
    assert result is not None
    assert result.error == "the task was stopped before it started by me"
