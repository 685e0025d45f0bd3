"""The Task that a command line describes."""

import io
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumer.cli.runner_options import RunnerOptions
from consumer.cli.task_options import TaskOptions, make_task
from consumer.errors import ConfigError
from schemas import Base64, Cache, Duration, Expiry, Limits, Retry, Size, Task


def made(category: str | None, *words: str, runner: dict[str, Any] | None = None, **options: Any) -> Task:
    """Return the Task of a command line."""
    return make_task(category, words, RunnerOptions(**(runner or {})), TaskOptions(**options))[1]


def refusal(category: str | None, *words: str, runner: dict[str, Any] | None = None, **options: Any) -> str:
    """Return what is wrong with a command line."""
    with pytest.raises(ConfigError) as caught:
        made(category, *words, runner=runner, **options)
    return str(caught.value)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Have a script without a first line that says whose it is."""
    path = tmp_path / "hello.py"
    path.write_text("print('hello')\n")
    return path


# -- the forms of the four runners -------------------------------------------------------------------------------------


def test_a_command_is_a_program_and_its_arguments() -> None:
    """`command -- /bin/ls -la /tmp`, as in the contract."""
    assert made("command", "/bin/ls", "-la", "/tmp") == Task(command="/bin/ls", args=["-la", "/tmp"])
    assert made("command", "date") == Task(command="date")


def test_a_script_is_sent_as_it_is_here(script: Path) -> None:
    """`script --interpreter bash FILE -- args`: the worker may be on another machine, where FILE is not."""
    task = made("script", str(script), "a", "--b", runner={"interpreter": "python3"})
    assert task == Task(args={"script": "print('hello')\n", "interpreter": "python3", "args": ["a", "--b"]})


def test_a_script_on_the_worker_is_named(script: Path) -> None:
    """Then FILE need not be here."""
    task = made("script", "/there/x.sh", "a", runner={"on_worker": True, "interpreter": "bash"})
    assert task == Task(command="/there/x.sh", args={"interpreter": "bash", "args": ["a"]})


@pytest.mark.parametrize(
    ("first_line", "interpreter"),
    [
        ("#!/bin/sh", ["/bin/sh"]),
        ("#! /usr/bin/env -S python3 -u\r", ["/usr/bin/env", "-S python3 -u"]),
    ],
)
def test_a_script_s_first_line_names_its_interpreter(script: Path, first_line: str, interpreter: list[str]) -> None:
    """As the kernel reads it: a program and at most one argument."""
    script.write_bytes(first_line.encode() + b"\nmore\n")
    assert isinstance(args := made("script", str(script)).args, dict)
    assert args["interpreter"] == interpreter


def test_a_script_s_extension_names_its_interpreter_else(script: Path) -> None:
    """Without either, it is one for the shell, or the interpreter has to be named."""
    assert made("script", str(script)) == Task(args={"script": "print('hello')\n", "interpreter": ["python3"]})
    plain = script.with_suffix("")
    plain.write_text("echo hello\n")
    assert made("script", str(plain)) == Task(args={"script": "echo hello\n"})
    odd = plain.rename(script.with_suffix(".odd"))
    assert refusal("script", str(odd)) == f"{odd} has no #! line: name its --interpreter"


def test_a_container_is_an_image_and_a_command() -> None:
    """`docker IMAGE -- cmd args`."""
    task = made("docker", "ubuntu:24.04", "ls", "-la", runner={"volume": ("/a:/b", "/c:/d:ro")}, env=("K=V",))
    assert task == Task(
        command="ls",
        args={"image": "ubuntu:24.04", "volumes": ["/a:/b", "/c:/d:ro"], "args": ["-la"]},
        env={"K": "V"},
    )
    assert made("docker", "hello-world") == Task(args={"image": "hello-world"})
    runner = {"network": "none", "user": "1000", "pull": "always"}
    assert made("docker", "i", runner=runner) == Task(args={"image": "i", **runner})


def test_a_request_is_a_url_and_what_belongs_to_it(script: Path) -> None:
    """`http URL`."""
    assert made("http", "http://x/") == Task(command="http://x/")
    runner = {"method": "POST", "header": ("A: b:c", "D:e"), "body": f"@{script}"}
    assert made("http", "http://x/", runner=runner) == Task(
        command="http://x/",
        args={"method": "POST", "headers": {"A": "b:c", "D": "e"}, "body": "print('hello')\n"},
    )
    runner = {"expected_status": "200,404", "follow_redirects": True}
    assert made("http", "http://x/", runner=runner) == Task(command="http://x/", args=runner)


def test_any_other_category_has_command_and_args() -> None:
    """`CATEGORY --command C --args JSON`; words are argv."""
    assert made("resize", runner={"command": "c", "args": '{"width": 3}'}) == Task(command="c", args={"width": 3})
    assert made("resize", runner={"args": '["a", 1]'}) == Task(args=["a", 1])
    assert made("resize", "a", "b") == Task(args=["a", "b"])
    assert made("resize") == Task()


def test_args_and_words_complete_each_other() -> None:
    """An object has the parameters, the words are argv and come first."""
    runner = {"args": '{"stop_scope": "leader"}'}
    assert made("command", "sleep", "9", runner=runner) == Task(
        command="sleep", args={"stop_scope": "leader", "args": ["9"]}
    )
    assert made("command", "ls", runner={"args": '["-l"]'}) == Task(command="ls", args=["-l"])
    assert made("command", "-l", runner={"command": "ls"}) == Task(command="ls", args=["-l"])


# -- the options of every task -----------------------------------------------------------------------------------------


def test_options_are_the_task_s_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, durations, pairs, and values that stay out of the command line."""
    monkeypatch.setenv("TOKEN", "s3=cret")
    task = made(
        "command",
        "true",
        id="t-1",
        timeout="90",
        grace="1m30s",
        env=("A=1", "B=x=y", "E="),
        secret_env=("TOKEN",),
        cwd="/tmp",
        label=("k=v",),
        limit=("memory=64MiB", "nofile=64", "cpus=0.5"),
        retry=("max_attempts=3", "delay=2s", "on=system,exit:75"),
        limits_policy="require",
        max_redeliveries=0,
        on_worker_lost="fail",
        exclusive=True,
        delay="5s",
        expires="2h",
        cache="1h",
        cache_key="x",
        reply_to="replies.x",
    )
    assert task == Task(
        id="t-1",
        command="true",
        timeout=Duration(90),
        grace=Duration(90),
        env={"A": "1", "B": "x=y", "E": ""},
        secret_env={"TOKEN": "s3=cret"},
        cwd="/tmp",
        labels={"k": "v"},
        limits=Limits(memory=Size(64 * 2**20), nofile=64, cpus=0.5),
        retry=Retry(max_attempts=3, delay=Duration(2), on=("system", "exit:75")),
        limits_policy="require",
        max_redeliveries=0,
        on_worker_lost="fail",
        exclusive=True,
        delay=Duration(5),
        expires=Expiry(after=Duration(7200)),
        cache=Cache(ttl=Duration(3600), key="x"),
        reply_to="replies.x",
    )


def test_a_task_may_have_its_time() -> None:
    """Once, or again and again."""
    assert made("command", "true", not_before="2030-01-01T00:00:00Z").not_before == datetime(2030, 1, 1, tzinfo=UTC)
    assert made("command", "true", schedule="*/5 * * * *").schedule == "*/5 * * * *"
    assert made("command", "true", cache="60").cache == Cache(ttl=Duration(60))


class Stdin(io.TextIOWrapper):
    """Standard input that holds some bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))


def test_standard_input_is_text_a_file_or_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is not text travels as base64."""
    (tmp_path / "in").write_bytes(b"\xff")
    monkeypatch.setattr(sys, "stdin", Stdin(b"from here"))
    assert made("command", "cat", stdin="text").stdin == "text"
    assert made("command", "cat", stdin=f"@{tmp_path / 'in'}").stdin == Base64(base64="/w==")
    assert made("command", "cat", stdin="-").stdin == "from here"
    assert made("command", "cat", stdin="").stdin == ""


def test_a_whole_task_may_be_given_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names its category, too; options and words override it."""
    whole = '{"category": "command", "command": "ls", "args": ["-l"], "timeout": 5, "labels": {"a": "b"}}'
    monkeypatch.setattr(sys, "stdin", Stdin(whole.encode()))
    given = RunnerOptions(), TaskOptions(json="-", timeout="9")
    assert make_task(None, (), *given) == (
        "command",
        Task(command="ls", args=["-l"], timeout=Duration(9), labels={"a": "b"}),
    )
    assert made("other", "x", json=whole).args == ["x"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name the task's category, such as: command -- /bin/ls -la", [None]),
        ("'a.b' is not a category", ["a.b"]),
        ("say what to run, such as: command -- /bin/ls -la", ["command"]),
        ("say what to run, such as: docker IMAGE", ["docker"]),
        ("an http task takes no arguments, but there is 'x'", ["http", "http://x/", "x"]),
        ("script: /no/such/file cannot be read: No such file or directory", ["script", "/no/such/file"]),
    ],
)
def test_words_that_make_no_task(text: str, line: list[str | None]) -> None:
    """The sentence says what is missing or too much."""
    category, *words = line
    assert refusal(category, *map(str, words)).startswith(text)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("`timeout`: expected a duration", {"timeout": "soon"}),
        ("`timeout`: expected a duration", {"timeout": "inf"}),
        ("`id`: expected 1 to 64 characters", {"id": "a b"}),
        ("--env: expected KEY=VALUE, got '=x'", {"env": ("=x",)}),
        ("--secret-env: there is no variable 'NOT_SET_HERE' here", {"secret_env": ("NOT_SET_HERE",)}),
        ("`A` is given in both `env` and `secret_env`", {"env": ("A=1",), "secret_env": ("A=2",)}),
        ("--label: expected KEY=VALUE, got 'x'", {"label": ("x",)}),
        ("unknown field `ram` in `limits`", {"limit": ("ram=1",)}),
        ("`limits.nofile`: expected `int | null`", {"limit": ("nofile=many",)}),
        ("unknown field `times` in `retry`", {"retry": ("times=3",)}),
        ("`expires`: expected an RFC 3339 time", {"expires": "tomorrow"}),
        ("--cache-key goes with --cache", {"cache_key": "x"}),
        ("`schedule` 'often' is neither cron", {"schedule": "often"}),
        ("only one of `not_before`, `delay` and `schedule`", {"delay": "1", "schedule": "@hourly"}),
        ("--stdin: /no/such/file cannot be read", {"stdin": "@/no/such/file"}),
        ("--json: the payload is not valid JSON", {"json": "{"}),
        ("--json: expected `object`, got `array`", {"json": "[]"}),
        ("unknown field `comand`", {"json": '{"comand": 1}'}),
        ("only one thing can be read from stdin", {"json": "-", "stdin": "-"}),
        ("the message cannot be written as JSON", {"cwd": "\udcff"}),
    ],
    ids=str,
)
def test_options_that_make_no_task(text: str, options: dict[str, Any]) -> None:
    """The sentence names the option or the field."""
    assert refusal("command", "true", **options).startswith(text)


@pytest.mark.parametrize(
    ("text", "runner"),
    [
        ("--interpreter is for script tasks, not for command", {"interpreter": "sh"}),
        ("--on-worker is for script tasks, not for command", {"on_worker": True}),
        ("--volume is for docker tasks, not for command", {"volume": ("a:b",)}),
        ("--header is for http tasks, not for command", {"header": ("a:b",)}),
        ("--args is not JSON", {"args": "-la"}),
        ("--args must be a JSON list or object", {"args": '"-la"'}),
        ("the arguments are given twice", {"args": '["-l"]'}),
        ("the arguments are given twice", {"args": '{"args": ["-l"]}'}),
    ],
    ids=str,
)
def test_runner_options_that_make_no_task(text: str, runner: dict[str, Any]) -> None:
    """Each runner has its own."""
    assert refusal("command", "ls", "-a", runner=runner).startswith(text)
