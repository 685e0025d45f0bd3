"""Tests of runners.arguments: a task's `args` in all their forms, and what CommandRunner makes of them."""

from typing import Any

import pytest

from runners.arguments import check_argv, parameter_object
from runners.command import CommandRunner
from runners.errors import InvalidTaskError
from schemas import Args


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param("", {}, id="missing"),
        pytest.param("null", {}, id="null as JSON"),
        pytest.param([], {"args": []}, id="empty list"),
        pytest.param({}, {}, id="empty object"),
        pytest.param(["-la", "/tmp"], {"args": ["-la", "/tmp"]}, id="list"),
        pytest.param('["-la", "/tmp"]', {"args": ["-la", "/tmp"]}, id="list as JSON"),
        pytest.param(' ["-la"]\n', {"args": ["-la"]}, id="JSON amid white space"),
        pytest.param({"args": ["-la"]}, {"args": ["-la"]}, id="object"),
        pytest.param('{"args": ["-la"]}', {"args": ["-la"]}, id="object as JSON"),
        pytest.param({"args": '["-la"]'}, {"args": ["-la"]}, id="object with a list as JSON"),
        pytest.param('{"args": "[\\"-la\\"]"}', {"args": ["-la"]}, id="object as JSON with a list as JSON"),
        pytest.param({"args": ""}, {"args": []}, id="object with no args"),
        pytest.param({"args": "null"}, {"args": []}, id="object with null as JSON"),
        pytest.param({"image": "x", "args": "[]"}, {"image": "x", "args": []}, id="the other keys stay"),
        pytest.param({"body": "[1]"}, {"body": "[1]"}, id="only `args` is read as JSON"),
        pytest.param([1, None, {"a": []}], {"args": [1, None, {"a": []}]}, id="values are left to the runner"),
    ],
)
def test_accepted_forms(args: Args, expected: dict[str, Any]) -> None:
    """A list, an object, or either as JSON in a string, becomes the parameter object."""
    assert parameter_object(args) == expected


def test_the_task_is_left_as_it_is() -> None:
    """The task may be published again: its `args` are not changed."""
    args = {"args": '["-la"]'}
    parameter_object(args)
    assert args == {"args": '["-la"]'}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("-la /tmp", "`args` is a string but not JSON: "),
        (" ", "`args` is a string but not JSON: "),
        ("[1,", "`args` is a string but not JSON: "),
        ("\ud800", "`args` is a string but not JSON: "),
        ("[" * 100_000, "`args` is a string but not JSON: "),
        ({"args": "-la"}, "`args.args` is a string but not JSON: "),
        ('"[1]"', "`args` must be a list or an object, or one of them as JSON, not a string"),
        ("true", "`args` must be a list or an object, or one of them as JSON, not a boolean"),
        ("1", "`args` must be a list or an object, or one of them as JSON, not a number"),
        ("1.5", "`args` must be a list or an object, or one of them as JSON, not a number"),
        ({"args": "{}"}, "`args.args` must be a list, or one as JSON, not an object"),
        ({"args": '"[]"'}, "`args.args` must be a list, or one as JSON, not a string"),
        ({"args": "1"}, "`args.args` must be a list, or one as JSON, not a number"),
        ({"args": "false"}, "`args.args` must be a list, or one as JSON, not a boolean"),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "backslashreplace").decode(),
)
def test_refused_forms(args: Args, sentence: str) -> None:
    """Anything else is refused with a sentence that says what was expected and what came."""
    with pytest.raises(InvalidTaskError) as refusal:
        parameter_object(args)
    assert str(refusal.value).startswith(sentence)
    assert sentence.endswith(": ") or str(refusal.value) == sentence


@pytest.mark.parametrize("argv", [[], [""], ["-la", "", "ünï"], ["$(x)", ";", "*", "\n"]])
def test_a_fine_argv(argv: list[str]) -> None:
    """Any text without a NUL may be an argument, the empty one too."""
    check_argv("/bin/ls", argv)


@pytest.mark.parametrize(
    ("command", "argv", "sentence"),
    [
        ("", [], "`command` is missing"),
        ("", ["ls"], "`command` is missing"),
        ("l\0s", [], "`command` contains a NUL byte"),
        ("ls", ["a\0"], "`args[0]` contains a NUL byte"),
        ("ls", ["a", "b", "\0"], "`args[2]` contains a NUL byte"),
    ],
)
def test_a_refused_argv(command: str, argv: list[str], sentence: str) -> None:
    """What no process can be given is refused, and named."""
    with pytest.raises(ValueError, match=f"^{sentence.replace('[', '.').replace(']', '.')}$"):
        check_argv(command, argv)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("/bin/ls", '["-la", "/tmp"]'),
        ("/bin/ls", ["-la"]),
        ("/bin/ls", ""),
        ("/bin/ls", {"args": ["-la"], "stop_scope": "leader"}),
        ("", {"command": "/bin/ls"}),
    ],
)
def test_command_takes(command: str, args: Args) -> None:
    """The category `command` takes an executable and its argv."""
    CommandRunner().parse_args(command, args)


@pytest.mark.parametrize(
    ("command", "args", "sentence"),
    [
        ("", "", "`command` is missing"),
        ("ls\0", "", "`command` contains a NUL byte"),
        ("ls", ["-l", "\0"], "in `args`: `args[1]` contains a NUL byte"),
        ("ls", [1], "in `args`: `args[0]`: expected `str`, got `int`"),
        ("ls", {"args": None}, "in `args`: `args`: expected `array`, got `null`"),
        ("ls", {"argz": []}, "in `args`: unknown field `argz`"),
        ("ls", {"stop_scope": "all"}, "in `args`: `stop_scope`: invalid enum value 'all'"),
    ],
)
def test_command_refuses(command: str, args: Args, sentence: str) -> None:
    """Anything else is refused with a sentence that names the parameter."""
    with pytest.raises(InvalidTaskError) as refusal:
        CommandRunner().parse_args(command, args)
    assert str(refusal.value) == sentence
