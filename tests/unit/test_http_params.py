"""Tests of an HTTP task's parameters: the forms that are taken, and what is refused before anything is sent."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.errors import InvalidTaskError
from runners.http.params import HttpParams, parse_url
from runners.http.runner import HttpRunner
from runners.http.statuses import StatusSet
from schemas import Args

URL = "http://example.org/"
STATUS = st.integers(100, 599)


def parsed(command: str, args: Args) -> HttpParams:
    """Return what a runner makes of a task's parameters."""
    runner = HttpRunner()
    runner.parse_args(command, args)
    assert runner._params is not None
    return runner._params


@pytest.mark.parametrize(
    ("command", "args"),
    [
        (URL, ""),
        (URL, {"method": "GET"}),
        (URL, '{"method": "GET"}'),
        ("", {"url": URL}),
        ("ftp://ignored/", {"url": URL}),
    ],
)
def test_the_url_is_the_command_or_a_parameter(command: str, args: Args) -> None:
    """The object's own counts."""
    assert (parsed(command, args).url, parsed(command, args).method) == (URL, "GET")


def test_the_seed_s_example() -> None:
    """It is taken word for word."""
    params = parsed(
        "",
        {
            "url": "https://api.example.com/webhook",
            "method": "POST",
            "headers": {"Content-Type": "application/json"},
            "body": '{"message": "hello"}',
        },
    )
    assert params.content() == b'{"message": "hello"}'


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({}, "`url` is missing"),
        ({"url": "example.org"}, "`url` must begin with http:// or https://"),
        ({"url": "ftp://example.org/"}, "`url` must begin with http:// or https://"),
        ({"url": "http://"}, "`url` names no host"),
        ({"url": "http:///x"}, "`url` names no host"),
        ({"url": "http://a:0/"}, "`url` has the port 0, which is not one of 1 to 65535"),
        ({"url": "http://a:65536/"}, "`url` has the port 65536, which is not one of 1 to 65535"),
        ({"url": f"http://{'a' * 64}/"}, f"`url` has the host '{'a' * 64}', which cannot be one"),
        ({"url": "http://a..b/"}, "`url` has the host 'a..b', which cannot be one"),
        ({"url": "http://a b/"}, "`url` has the host 'a%20b', which cannot be one"),
        *(
            ({"url": url}, "`url` cannot be read: its host, port or characters are none that a URL can have")
            for url in ("http://a/\r\nX: y", "http://me:pass/word@a/", "http://a/\ud800", "http://[::1", "http://\0/")
        ),
        ({"url": URL, "method": "GET /"}, "`method` is 'GET /', which is none that a task can use"),
        ({"url": URL, "method": ""}, "`method` is '', which is none that a task can use"),
        ({"url": URL, "method": "connect"}, "`method` is 'connect', which is none that a task can use"),
        ({"url": URL, "headers": {"a b": "c"}}, "`headers` has the name 'a b', which no header can have"),
        ({"url": URL, "headers": {"": "c"}}, "`headers` has the name '', which no header can have"),
        *(
            ({"url": URL, "headers": {"a": v}}, "`headers.a` must hold printable ASCII characters only, on one line")
            for v in ("b\r\nc: d", "b\nc", "ü", "\0", "a\x7f", "\ud800")
        ),
        *(
            ({"url": URL, "headers": {name: "x"}}, f"`headers.{name}` belongs to the connection and cannot be given")
            for name in ("Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Trailer")
        ),
        (
            {"url": URL, "headers": {"Proxy-Authorization": "x"}},
            "`headers.Proxy-Authorization` belongs to the connection and cannot be given",
        ),
        ({"url": URL, "headers": {"a": "b", "A": "c"}}, "`headers.A` is given twice, in different cases"),
        ({"url": URL, "headers": {"a": 1}}, "`headers[...]`: expected `str`, got `int`"),
        ({"url": URL, "body": "a", "body_base64": ""}, "only one of `body` and `body_base64` may be given"),
        ({"url": URL, "body_base64": "?"}, "`body_base64` must be padded base64 text"),
        ({"url": URL, "body": "\ud800"}, "`body` contains a lone surrogate, which no request can hold"),
        ({"url": URL, "body": ["\ud800"]}, "`body` contains a lone surrogate, which no request can hold"),
        ({"url": URL, "expected_status": []}, "`expected_status` names no status"),
        ({"url": URL, "expected_status": 99}, "`expected_status` has '99', but must be such as 200, 200-299 or 2xx"),
        (
            {"url": URL, "expected_status": ["299-200"]},
            "`expected_status` has '299-200', which is no status or range from 100 to 599",
        ),
        ({"url": URL, "follow_redirects": 11}, "`follow_redirects`: expected `int` <= 10"),
        ({"url": URL, "connect_timeout": 0}, "`connect_timeout` must be more than 0"),
        ({"url": URL, "on_body_limit": "drop"}, "`on_body_limit`: invalid enum value 'drop'"),
        ({"url": URL, "image": "x"}, "unknown field `image`"),
        (["a"], "unknown field `args`"),
    ],
)
def test_refused_forms(args: Args, sentence: str) -> None:
    """The sentence names the parameter, and repeats no password."""
    with pytest.raises(InvalidTaskError) as refusal:
        HttpRunner().parse_args("", args)
    assert str(refusal.value) == (f"in `args`: {sentence}" if args else sentence)


@pytest.mark.parametrize("field", ["env", "secret_env", "cwd", "stdin"])
def test_what_a_request_has_no_use_for_is_refused(field: str) -> None:
    """There is no process that would have an environment, a directory or an input."""
    runner = HttpRunner()
    value: Any = {"A": "b"} if field.endswith("env") else "x"
    runner.context = type(runner.context)(task=type(runner.context.task)(**{field: value}))
    with pytest.raises(InvalidTaskError, match=f"^this category has no use for `{field}`$"):
        runner.parse_args(URL, "")


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("http://[::1]:80/", b"::1"),
        ("HTTPS://EXAMPLE.org./", b"example.org."),
        ("http://ü.example/", b"xn--tda.example"),
        ("http://_a.b-c/", b"_a.b-c"),
        ("http://127.1/", b"127.1"),
    ],
)
def test_hosts_in_all_their_forms(given: str, host: bytes) -> None:
    """Addresses, international names, and what only a resolver understands."""
    assert parse_url(given).raw_host == host


def test_credentials_are_secrets() -> None:
    """Whole, and their parts; other headers are none."""
    params = HttpParams(
        url="http://me:pass-word@a/",
        headers={
            "Authorization": "Basic bWU6b3RoZXItd29yZA==",
            "X-Auth-Token": "t0ken-1",
            "Cookie": "a=b1; c=d2",
            "X": "x",
        },
    )
    assert {"bWU6b3RoZXItd29yZA==", "other-word", "t0ken-1", "b1", "d2", "pass-word"} <= {*params.secrets()}
    assert "x" not in {*params.secrets()}


@given(st.lists(st.tuples(STATUS, STATUS).map(sorted), min_size=1, max_size=4), STATUS)
def test_ranges_hold_what_is_between_their_ends(ranges: list[list[int]], status: int) -> None:
    """In a list, with commas, and as it is written again."""
    wanted = any(first <= status <= last for first, last in ranges)
    texts = [f"{first} - {last}" for first, last in ranges]
    for expected in (texts, ", ".join(texts), str(StatusSet.parse([*texts]))):
        assert (status in StatusSet.parse(expected)) == wanted  # type: ignore[arg-type]


@given(STATUS)
def test_a_class_of_statuses(status: int) -> None:
    """`2xx` is 200 to 299."""
    assert (status in StatusSet.parse(f"{status // 100}xx")) is True
    assert (status in StatusSet.parse("2xx")) == (200 <= status <= 299)
    assert status in StatusSet.parse(status)
    assert status in StatusSet.parse([100, status])


@given(st.text(max_size=12))
def test_anything_else_is_no_status(text: str) -> None:
    """It is refused, whatever it is, or holds only statuses that there are."""
    with suppress(ValueError):
        statuses = StatusSet.parse(text)
        assert not any(status in statuses for status in (0, 99, 600, 1000))
