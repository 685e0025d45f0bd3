"""Tests of ScriptRunner's parameters: the forms that are taken, the interpreter they mean, and what is refused."""

import json
from typing import Any

import pytest

from runners.errors import InvalidTaskError
from runners.script import MAX_INLINE, ScriptParams, ScriptRunner
from schemas import Args


def parsed(command: str, args: Args) -> ScriptParams:
    """Return what a runner makes of a task's parameters."""
    runner = ScriptRunner()
    runner.parse_args(command, args)
    assert runner._params is not None
    return runner._params


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        pytest.param("/x.sh", "", ("/x.sh", "", []), id="command alone"),
        pytest.param("/x.sh", ["-v"], ("/x.sh", "", ["-v"]), id="command and a list"),
        pytest.param("/x.sh", '["-v"]', ("/x.sh", "", ["-v"]), id="command and a list as JSON"),
        pytest.param("/x.sh", {"args": '["-v"]'}, ("/x.sh", "", ["-v"]), id="command and an object"),
        pytest.param("/x.sh", {"script_path": "/y.sh"}, ("/y.sh", "", []), id="the object's own path counts"),
        pytest.param("", {"script_path": "/x.sh", "args": ["-v"]}, ("/x.sh", "", ["-v"]), id="path"),
        pytest.param("", {"script": "exit", "args": '["-v"]'}, ("", "exit", ["-v"]), id="inline"),
        pytest.param("", '{"script": "exit", "args": "[\\"-v\\"]"}', ("", "exit", ["-v"]), id="inline as JSON"),
        pytest.param("", {"script": "exit", "script_path": ""}, ("", "exit", []), id="an empty path is none"),
    ],
)
def test_accepted_forms(command: str, args: Args, expected: tuple[str, str, list[str]]) -> None:
    """A script is a path, which `command` may fill, or a text; arguments are a list, or one as JSON."""
    params = parsed(command, args)
    assert (params.script_path, params.script, [*params.args]) == expected


@pytest.mark.parametrize(
    ("path", "interpreter"),
    [
        *(("a.sh", "/bin/sh"), ("a.bash", "bash"), ("a.py", "python3"), ("a.pl", "perl"), ("a.rb", "ruby")),
        *(("a.js", "node"), ("a", "/bin/sh"), ("a.txt", "/bin/sh"), ("a.py.bak", "/bin/sh"), (".py", "/bin/sh")),
        ("/b.py/a", "/bin/sh"),
    ],
)
def test_the_extension_means_an_interpreter(path: str, interpreter: str) -> None:
    """Without an interpreter the extension decides, and any other is for `/bin/sh`."""
    assert parsed(path, "").command == [interpreter]


@pytest.mark.parametrize(
    ("interpreter", "command"),
    [
        ("bash", ["bash"]),
        ("python3 -u", ["python3 -u"]),
        ('["bash"]', ['["bash"]']),
        (["python3", "-u", ""], ["python3", "-u", ""]),
        ("", ["/bin/sh"]),
        ([], ["/bin/sh"]),
    ],
)
def test_an_interpreter_is_never_split(interpreter: Any, command: list[str]) -> None:
    """A string is one executable, spaces and all; a list is taken as it stands; an empty one is the default."""
    assert parsed("", {"script": "exit", "interpreter": interpreter}).command == command


@pytest.mark.parametrize(
    ("command", "args", "sentence"),
    [
        ("", "", "one of `script_path` and `script` must be given"),
        ("", ["-v"], "in `args`: one of `script_path` and `script` must be given"),
        ("", {"script": "", "script_path": ""}, "in `args`: one of `script_path` and `script` must be given"),
        ("", {"script": "x", "script_path": "y"}, "in `args`: only one of `script_path` and `script` must be given"),
        ("y", {"script": "x"}, "in `args`: only one of `script_path` and `script` must be given"),
        ("a\0", "", "`script_path` contains a NUL byte"),
        ("a\ud800", "", "`script_path` contains a lone surrogate, which no file can hold"),
        ("", {"script": "\ud800"}, "in `args`: `script` contains a lone surrogate, which no file can hold"),
        ("a", ["\0"], "in `args`: `args[0]` contains a NUL byte"),
        ("a", [1], "in `args`: `args[0]`: expected `str`, got `int`"),
        ("a", {"interpreter": 1}, "in `args`: `interpreter`: expected `str | array`, got `int`"),
        ("a", {"interpreter": "a\0"}, "in `args`: `interpreter` contains a NUL byte"),
        ("a", {"interpreter": ["a", "\0"]}, "in `args`: `interpreter` contains a NUL byte"),
        ("a", {"interpreter": [""]}, "in `args`: `interpreter[0]` is empty"),
        ("a", {"stop_scope": "all"}, "in `args`: `stop_scope`: invalid enum value 'all'"),
        ("a", {"image": "x"}, "in `args`: unknown field `image`"),
    ],
)
def test_refused_forms(command: str, args: Args, sentence: str) -> None:
    """Anything else is refused with a sentence that names the parameter."""
    with pytest.raises(InvalidTaskError) as refusal:
        ScriptRunner().parse_args(command, args)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize("character", ["x", "ü"])
def test_an_inline_script_has_at_most_1_mib(character: str) -> None:
    """The encoded bytes count: what has one too many belongs in a file."""
    script = character * (MAX_INLINE // len(character.encode()))
    assert parsed("", json.dumps({"script": script})).script == script
    with pytest.raises(InvalidTaskError, match="`script` has 1048577 bytes, but at most 1048576: keep it in a file"):
        ScriptRunner().parse_args("", {"script": f"{script}x"})
