"""Tests of runners.registry: a category has one factory, and an unknown one is an error that helps."""

from typing import Any

import anyio
import pytest

from runners import runner
from runners.base import Runner
from runners.command import CommandRunner
from runners.docker import DockerRunner, Engine
from runners.errors import UnknownCategoryError
from runners.functions.coroutine import CoroutineRunner
from runners.http.runner import HttpRunner
from runners.registry import Registry, default_registry
from runners.script import ScriptRunner


class IdleRunner(Runner[dict[str, Any]]):
    """Does nothing."""

    params_type = dict

    async def run(self, params: dict[str, Any]) -> None:
        """Return at once."""


def registry_of(*categories: str) -> Registry:
    """Return a registry of idle runners."""
    registry = Registry()
    for category in categories:
        registry.register(category, IdleRunner)
    return registry


def test_each_task_gets_a_runner_of_its_own() -> None:
    """A Runner is used once: `create` makes a fresh one every time."""
    registry = registry_of("idle")
    first, second = registry.create("idle"), registry.create("idle")
    assert isinstance(first, IdleRunner)
    assert first is not second
    assert first.report is not second.report


def test_any_callable_is_a_factory() -> None:
    """A factory may be a function that configures its runner."""

    def configured() -> IdleRunner:
        runner = IdleRunner()
        runner.timeout = 5
        return runner

    registry = Registry()
    registry.register("slow", configured)
    assert registry.create("slow").timeout == 5


@pytest.mark.parametrize("category", ["a", "A-z_9", "x" * 64])
def test_a_category_is_a_token(category: str) -> None:
    """Every name that can be a subject's token is taken."""
    assert category in registry_of(category)


@pytest.mark.parametrize("category", ["", "a.b", "a b", "*", ">", "a\n", "ü", "x" * 65])
def test_no_category_but_a_token(category: str) -> None:
    """A name that would break the subject is refused when it is registered."""
    with pytest.raises(ValueError, match="must be 1 to 64 characters of A-Z a-z 0-9 _ -"):
        registry_of(category)


def test_a_category_is_registered_once() -> None:
    """A second factory for a category is refused, and the first one stays."""
    registry = registry_of("idle")
    with (
        registry.crediting("a test"),
        pytest.raises(ValueError, match="'idle' is registered twice: by this program and by a test"),
    ):
        registry.register("idle", CommandRunner)
    assert isinstance(registry.create("idle"), IdleRunner)


@pytest.mark.parametrize(("known", "named"), [([], "none"), (["zoo", "ant"], "ant, zoo")])
def test_an_unknown_category_is_answered_with_the_known_ones(known: list[str], named: str) -> None:
    """The error says which categories there are."""
    with pytest.raises(UnknownCategoryError) as error:
        registry_of(*known).create("cmmand")
    assert str(error.value) == f"no runner is registered for the category 'cmmand'; there are {named}"


def test_categories_are_listed_in_order() -> None:
    """Iterating gives the categories by name, and membership takes anything."""
    registry = registry_of("zoo", "ant")
    assert list(registry) == ["ant", "zoo"]
    assert "bee" not in registry
    assert None not in registry


def test_register_is_a_decorator_too() -> None:
    """What is decorated stays as it is; a function that was declared a runner stands for its factory."""
    registry = Registry()

    @registry.register("greet")
    class Greeter(IdleRunner): ...

    @registry.register("hello")
    @runner("anything")
    async def hello() -> None: ...

    assert isinstance(registry.create("greet"), Greeter)
    assert isinstance(registry.create("hello"), CoroutineRunner)
    assert registry.source("greet") == "this program"


def test_a_factory_is_loaded_once_when_it_is_needed() -> None:
    """An offer costs nothing until its first task."""
    loaded: list[str] = []

    def load() -> type[IdleRunner]:
        loaded.append("idle")
        return IdleRunner

    registry = Registry()
    registry.offer("idle", load, source="a test")
    assert list(registry) == ["idle"]
    assert loaded == []
    assert isinstance(registry.create("idle"), IdleRunner)
    assert isinstance(registry.create("idle"), IdleRunner)
    assert loaded == ["idle"]


def test_closing_a_registry_closes_the_factories_that_were_used() -> None:
    """Those that keep something for their runners."""
    closed: list[str] = []

    class Keeping:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self) -> IdleRunner:
            return IdleRunner()

        async def aclose(self) -> None:
            closed.append(self.name)

    registry = registry_of("idle")
    registry.register("used", Keeping("used"))
    registry.register("unused", Keeping("unused"))
    registry.create("used")
    registry.create("idle")
    anyio.run(registry.aclose)
    assert closed == ["used"]


def test_registries_share_nothing() -> None:
    """What one worker registers is unknown to another."""
    registry_of("idle")
    assert list(Registry()) == []


def test_the_built_in_runners() -> None:
    """`command`, `script`, `docker` and `http` are there from the start."""
    registry = default_registry()
    assert isinstance(registry.create("command"), CommandRunner)
    assert isinstance(registry.create("script"), ScriptRunner)
    assert isinstance(registry.create("docker"), DockerRunner)
    assert isinstance(registry.create("http"), HttpRunner)


def test_what_a_category_cannot_run_without() -> None:
    """Docker tasks share an engine; a command needs nothing, and neither does what nobody runs."""
    registry = default_registry()
    assert isinstance(registry.facility("docker"), Engine)
    assert registry.facility("command") is None
    assert registry.facility("nosuch") is None
