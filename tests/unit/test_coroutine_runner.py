"""Tests of coroutine functions as runners: what they are given, what becomes of what they return, raise and report."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from runners import TaskContext, runner
from runners.base import Runner
from runners.context import Context, SilentReporter
from runners.declaration import declaration_of, factory_of
from runners.errors import InvalidTaskError, PolicyDeniedError
from schemas import Limits, Result, Size, Status, Task

pytestmark = pytest.mark.anyio

PATIENCE = 10.0


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


def made(function: Callable[..., Any], args: dict[str, Any], **task: Any) -> Runner[Any]:
    runner = factory_of(function)()
    runner.context = Context(task=Task(id="t-1", category="work", **task), worker="w-1", reporter=SilentReporter())
    runner.parse_args("", args)
    return runner


async def run(function: Callable[..., Any], args: dict[str, Any] | None = None, **task: Any) -> Result:
    with anyio.fail_after(PATIENCE):
        return await made(function, args or {}, **task).execute()


@runner("area")
async def area(width: int, height: int = 5) -> dict[str, int]:
    return {"area": width * height}


@runner("wrong")
async def wrong(how: str) -> Any:
    match how:
        case "object":
            return object()
        case "policy":
            raise PolicyDeniedError("not here")
    raise ValueError("no good:\nnone at all")


@runner("talk")
async def talk(context: TaskContext) -> str:
    context.log("about to begin")
    context.progress(done=1)
    context.write("written ")
    return f"{context.category} {context.id} {context.attempt} {context.worker} {context.labels}"


async def test_what_it_returns_is_the_output_as_json() -> None:
    """A decorated function is still itself, and a runner."""
    assert (await area(2, height=2)) == {"area": 4}
    result = await run(area, {"width": 3})
    assert (result.status, result.output, result.exit_code) == (Status.SUCCESS, '{"area":15}', None)


async def test_none_is_no_output() -> None:
    """As a process that prints nothing."""

    @runner("nothing")
    async def nothing() -> None: ...

    assert (await run(nothing)).output == ""


async def test_bad_parameters_are_refused_before_it_runs() -> None:
    """They are the task's fault."""
    with pytest.raises(InvalidTaskError, match="unknown field `size`"):
        made(area, {"width": 1, "size": 1})
    with pytest.raises(InvalidTaskError, match="has no use for `env`"):
        made(area, {"width": 1}, env={"A": "b"})


async def test_an_exception_is_a_failure_with_its_traceback() -> None:
    """The error is one line, and the traceback begins in the function."""
    result = await run(wrong, {"how": "raise"})
    assert (result.status, result.error_code, result.retryable) == (Status.FAILED, "exception", False)
    assert result.error == "ValueError: no good: none at all"
    lines = result.stderr.splitlines()
    assert "test_coroutine_runner.py" in lines[1]
    assert lines[-2:] == ["ValueError: no good:", "none at all"]


async def test_what_has_no_json_form_is_a_failure() -> None:
    """The error says what was returned."""
    assert (await run(wrong, {"how": "object"})).error.startswith(
        "TypeError: a object was returned that has no JSON form"
    )


async def test_an_error_of_ours_keeps_its_meaning() -> None:
    """A function may refuse a task in the words of a Runner."""
    result = await run(wrong, {"how": "policy"})
    assert (result.status, result.error_code, result.error) == (Status.ERROR, "policy_denied", "not here")


async def test_the_context_tells_and_takes() -> None:
    """What is logged is stderr, what is written precedes what is returned."""
    result = await run(talk, labels={"a": "b"})
    assert result.stderr == "about to begin\n"
    assert result.output == "written \"work t-1 1 w-1 {'a': 'b'}\""


async def test_a_stop_cancels_it() -> None:
    """It may clean up, and can tell why."""
    seen: list[bool] = []
    begun = anyio.Event()

    @runner("wait")
    async def wait(context: TaskContext) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(context.stopping)

    waiting = made(wait, {})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(waiting.execute)
            await begun.wait()
            waiting.stop()
    assert waiting.result is not None
    assert (waiting.result.status, seen) == (Status.CANCELED, [True])


async def test_limits_are_not_enforced_within_the_worker_and_that_is_said() -> None:
    """A task that requires one is refused; its output is limited as any."""
    limits = Limits(memory=Size(2**20), output=Size(10))
    result = await run(area, {"width": 1}, limits=limits)
    assert {name: limit.enforced_by for name, limit in result.limits.items()} == {"memory": "none", "output": "worker"}
    result = await run(area, {"width": 1}, limits=limits, limits_policy="require")
    assert (result.status, result.error_code) == (Status.ERROR, "limit_unsupported")


def test_a_subclass_does_not_inherit_its_category() -> None:
    """What is declared of a class is said of it alone."""

    @runner("parent")
    class Parent(Runner[Any]):
        params_type = dict

        async def run(self, params: Any) -> None: ...

    class Child(Parent): ...

    assert declaration_of(Child) is None
    assert isinstance(factory_of(Parent)(), Parent)


def test_a_plain_function_must_be_where_a_process_can_find_it() -> None:
    """One within another cannot be imported."""

    @runner("inner")
    def inner() -> None: ...

    with pytest.raises(TypeError, match="must be at the top of a module"):
        factory_of(inner)()
