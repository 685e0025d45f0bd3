"""Secrets are kept out of output, whatever way they are written and however they are cut."""

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.redaction import REPLACEMENT, Redactor, Secrets, is_secret_name
from schemas import Task

SECRET = 'p"ss/wörd+1234'
TASK = Task(secret_env={"PW": SECRET})


def redact(data: bytes, task: Task = TASK, size: int = 2**20) -> bytes:
    redactor = Redactor(Secrets.of(task))
    pieces = [redactor.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(pieces) + redactor.finish()


@pytest.mark.parametrize(
    "form", [SECRET, json.dumps(SECRET)[1:-1], json.dumps({"a": SECRET}), quote(SECRET, safe="")], ids=str
)
@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_a_secret_in_any_form_and_any_cut(form: str, size: int) -> None:
    """Plain, escaped and encoded secrets are replaced, also when each byte comes alone."""
    data = f"before {form} after".encode()
    shown = redact(data, size=size)
    assert REPLACEMENT in shown
    assert SECRET.encode() not in shown
    assert form.encode() not in shown


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_at_any_place(before: int, encode: Callable[[bytes], bytes]) -> None:
    """Wherever a secret begins in what is base64-encoded, no more than its edges is left of it."""
    secret = SECRET.encode()
    encoded = encode(b"x" * before + secret + b"tail")
    inner = encoded[(before * 8 + 5) // 6 + 1 : (before + len(secret)) * 8 // 6 - 1]
    shown = redact(encoded, size=3)
    assert REPLACEMENT in shown
    assert not any(inner[at : at + 6] in shown for at in range(len(inner) - 5))


def test_each_line_of_a_key() -> None:
    """A secret of several lines is one in each of them."""
    key = "-----BEGIN KEY-----\nabcdefghij\nklmnopqrst\n-----END KEY-----"
    assert b"klmnopqrst" not in redact(b"it says klmnopqrst.", Task(secret_env={"KEY": key}))


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("DB_PASSWORD", True),
        ("github_token", True),
        ("API_KEY", True),
        ("TOKEN", True),
        ("PATH", False),
        ("USER", False),
    ],
)
def test_variables_that_are_named_like_secrets(name: str, *, secret: bool) -> None:
    """`env` has secrets too: their names give them away."""
    assert bool(Secrets.of(Task(env={name: "some-long-value"}))) is secret


@pytest.mark.parametrize(("name", "secret"), [("X-Api-Key", True), ("x-auth-token", True), ("X-Request-Id", False)])
def test_headers_that_are_named_like_secrets(name: str, *, secret: bool) -> None:
    """Hyphens are as good as underscores."""
    assert is_secret_name(name) == secret


def test_other_secrets_count_too() -> None:
    """A runner may know of some."""
    assert Secrets.of(Task(), ["hush-hush"]).redact(b"hush-hush") == b"[REDACTED]"


def test_short_values_are_no_secrets() -> None:
    """What is too short would be replaced everywhere."""
    assert not Secrets.of(Task(secret_env={"A": "12345"}))


def test_what_is_no_secret_is_shown_at_once() -> None:
    """Only the possible beginning of a secret waits."""
    redactor = Redactor(Secrets.of(TASK))
    assert redactor.feed(b"password? ") == b"password? "
    assert redactor.feed(b"x p") == b"x "
    assert redactor.feed(b"lain") == b"plain"
    assert redactor.feed(b'p"ss') == b""
    assert redactor.finish() == b'p"ss'


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_other_output_is_left_alone(chunks: list[bytes]) -> None:
    """Whatever is no secret comes out as it went in."""
    redactor = Redactor(Secrets(["a secret that does not occur"]))
    assert b"".join(map(redactor.feed, chunks)) + redactor.finish() == b"".join(chunks)


def test_texts_are_redacted_too() -> None:
    """An error that repeats a secret does not show it."""
    assert Secrets.of(TASK).redact_text(f"no such file: {SECRET}") == "no such file: [REDACTED]"
