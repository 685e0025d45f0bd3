"""Tests of what a Result shows of a response, and of when a server wants us back."""

import time
from email.utils import formatdate

import httpx
import pytest

from runners.http.response import LONGEST_WAIT, retry_after, shown_headers, shown_url
from runners.redaction import Secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://a/x?b=c", "http://a/x?b=c"),
        ("http://me:pass@a/", "http://a/"),
        ("http://me@a/?q=b@c", "http://a/?q=b@c"),
        (
            "http://a/?access_token=1&b=2&X-Amz-Signature=3",
            "http://a/?access_token=[REDACTED]&b=2&X-Amz-Signature=[REDACTED]",
        ),
        ("http://a/?sig=1;code=2", "http://a/?sig=[REDACTED];code=[REDACTED]"),
        ("http://a/?keyboard=1&design=2", "http://a/?keyboard=1&design=2"),
        ("5; url=http://me:pass@a/", "5; url=http://a/"),
    ],
)
def test_a_url_is_shown_without_what_it_gives_away(given: str, shown: str) -> None:
    """Userinfo goes, and the values of parameters that sign or authorize."""
    assert shown_url(given) == shown


def test_headers_of_one_name_are_joined() -> None:
    """As RFC 9110 has it."""
    assert shown_headers(httpx.Headers([("a", "1"), ("b", "2"), ("A", "3")]), Secrets([])) == (
        {"a": "1, 3", "b": "2"},
        True,
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("0", 0.0), ("120", 120.0), (" 5 ", 5.0), ("9" * 400, LONGEST_WAIT), ("-1", None), ("1.5", None), ("", None)),
        *(("soon", None), ("Fri, 99 Foo 1999 23:59:59 GMT", None), ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT)),
    ],
)
def test_seconds_to_wait(text: str, seconds: float | None) -> None:
    """A whole number, or nothing."""
    assert retry_after(httpx.Headers({"Retry-After": text})) == seconds


def test_a_date_to_wait_for() -> None:
    """It counts from now."""
    seconds = retry_after(httpx.Headers({"Retry-After": formatdate(time.time() + 90, usegmt=True)}))
    assert seconds is not None
    assert 60 < seconds <= 90
