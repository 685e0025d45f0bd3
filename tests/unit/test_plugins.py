"""Tests of plug-ins: what a module or package brings, and the error for everything that can be wrong with one."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent

import pytest

from consumer.config import Config
from consumer.errors import ConfigError
from consumer.plugins import find_runners, start_runners
from runners import plugins
from runners.base import Runner
from runners.functions.coroutine import CoroutineRunner
from runners.registry import default_registry

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into the current directory; it is forgotten in the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(dedent(text), encoding="utf-8")

    yield write
    for name in {*sys.modules} - before:
        del sys.modules[name]


def start(*names: str) -> None:
    """Do what a worker does with these plug-ins before it works."""
    registry = find_runners(Config(plugins=names))
    start_runners(registry, registry)


def complaint(*names: str) -> str:
    """Return the error that a configuration with these plug-ins ends in."""
    with pytest.raises(ConfigError) as error:
        start(*names)
    return str(error.value)


GREET = """
    from runners import Runner, runner
    import msgspec

    class Params(msgspec.Struct):
        name: str

    @runner("greet")
    class Greet(Runner[Params]):
        params_type = Params

        async def run(self, params):
            self.write(f"hello {params.name}")

    @runner("double")
    async def double(number: int) -> int:
        return 2 * number
"""


def test_a_plug_in_in_the_current_directory_brings_its_runners(write: Write) -> None:
    """Classes and functions that are decorated, beside the built-in ones; a plug-in that is named twice counts once."""
    write("mine", GREET)
    registry = find_runners(Config(plugins=("mine", "mine")))
    assert {*registry} - {*default_registry()} == {"double", "greet"}
    assert registry.source("greet") == "plug-in mine"
    assert isinstance(registry.create("double"), CoroutineRunner)
    start_runners(registry, registry)


def test_a_plug_in_may_register_by_itself(write: Write) -> None:
    """Its `register` gets the registry; what it merely imports under that name is none."""
    write("mine", GREET)
    write("hook", "import mine\ndef register(registry): registry.register('hello', mine.Greet)")
    write("other", "from atexit import register\nfrom mine import double")
    assert "hello" in find_runners(Config(plugins=("hook",)))
    assert {*find_runners(Config(plugins=("other",)))} - {*default_registry()} == {"double"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "the plug-in 'mine' has no runner: decorate one in it with @runner, or define register(registry)"),
        (
            "1 / 0",
            "the plug-in 'mine' failed when it was imported: ZeroDivisionError: division by zero (HERE/mine.py:1)",
        ),
        ("def f(:", "the plug-in 'mine' failed when it was imported: SyntaxError: invalid syntax"),
        (
            "import nixda",
            "the plug-in 'mine' failed when it was imported: ModuleNotFoundError: No module named 'nixda'",
        ),
        ("raise SystemExit(3)", "the plug-in 'mine' failed when it was imported: SystemExit: 3"),
        ("def register(r): r.nix()", "the plug-in 'mine' failed in its register(): AttributeError: 'Registry' object"),
        (
            "from runners import runner\n@runner('command')\nasync def f() -> None: ...",
            "the category 'command' is registered twice: by built-in and by plug-in mine; rename one",
        ),
        (
            "from runners import runner\n@runner('a.b')\nasync def f() -> None: ...",
            "the category 'a.b' must be 1 to 64 characters",
        ),
        (
            "from runners import runner\n@runner('f')\nasync def f(x) -> None: ...",
            "the runner of the category 'f', by plug-in mine, cannot start: TypeError: the parameter 'x' of f has no",
        ),
        (
            "def register(r): r.register('f', dict)",
            "the runner of the category 'f', by plug-in mine, cannot start: its factory has made a dict, not a Runner",
        ),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_one_clear_error(write: Write, text: str, said: str) -> None:
    """It names the plug-in, and what is wrong with it."""
    write("mine", text)
    error = complaint("mine")
    assert error.startswith(said.replace("HERE", str(Path.cwd())))
    assert "\n" not in error


def test_a_plug_in_that_is_not_there(write: Write) -> None:
    """The error says where it was looked for."""
    assert complaint("nix.da").startswith(
        f"the plug-in 'nix.da' was not found, neither on the Python path nor in {Path.cwd()}: install it, or take"
    )


def test_two_plug_ins_with_one_category(write: Write) -> None:
    """The error names both."""
    for name in ("mine", "yours"):
        write(name, "from runners import runner\n@runner('f')\nasync def f() -> None: ...")
    assert "'f' is registered twice: by plug-in mine and by plug-in yours" in complaint("mine", "yours")


def offered(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Have packages that offer runners."""
    points = [EntryPoint(name, value, plugins.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)


def test_an_entry_point_is_imported_when_it_is_needed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is the category, whatever was declared; one that is broken hurts only those who need it."""
    write("mine", GREET)
    monkeypatch.syspath_prepend(Path.cwd())
    offered(monkeypatch, salute="mine:Greet", twice="mine:double", broken="mine:nix")
    registry = find_runners(Config())
    assert "mine" not in sys.modules
    assert isinstance(registry.create("salute"), Runner)
    start_runners(registry, ["salute", "twice", "unknown"])
    with pytest.raises(ConfigError) as error:
        start_runners(registry, ["broken"])
    assert str(error.value).startswith(
        "the runner of the category 'broken', by package mine, cannot be imported from mine:nix: AttributeError: "
        "module 'mine' has no attribute 'nix'"
    )


def test_an_entry_point_with_a_category_that_is_taken(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says by whom."""
    offered(monkeypatch, script="mine:Greet")
    assert complaint().startswith("the category 'script' is registered twice: by built-in and by package mine")
