"""What the Result shows of a response: no credentials, and no more than fits. Pure."""

import re
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from runners.redaction import REPLACEMENT, Secrets, is_secret_name

MAX_HEADERS: Final = 16 * 1024
"""Bytes of response headers that are kept, names and values."""
LONGEST_WAIT: Final = 86400.0
"""Seconds of a `Retry-After` that are believed: no server keeps a task for ever."""

_REDACTED: Final = REPLACEMENT.decode()
_CREDENTIALS: Final = frozenset({
    *("set-cookie", "set-cookie2", "cookie", "authorization", "proxy-authorization", "authentication-info"),
})  # fmt: skip
_LINKS: Final = frozenset({"location", "content-location", "refresh", "link"})
_SIGNED: Final = re.compile(
    r"sig|signature|code|apikey|key|awsaccesskeyid|x-amz-.*|x-goog-(signature|credential)", re.IGNORECASE
)
_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s@]*@")
_PARAMETER: Final = re.compile(r"(?P<lead>[?&;])(?P<name>[^=&;#\s]+)=(?P<value>[^&;#\s]*)")


def shown_url(text: str) -> str:
    """Return a URL, or text that holds some, without userinfo and without the values of telling parameters."""
    return _PARAMETER.sub(_shown_parameter, _USERINFO.sub("", text))


def shown_headers(headers: httpx.Headers, secrets: Secrets) -> tuple[dict[str, str], bool]:
    """Return the headers that are kept, and whether those are all; of a repeated one, the values with commas."""
    kept: dict[str, str] = {}
    room = MAX_HEADERS
    for name, value in _joined(headers.multi_items()):
        shown = _shown(name, value, secrets)
        room -= len(name) + len(shown)
        if room < 0:
            return kept, False
        kept[name] = shown
    return kept, True


def retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110, section 10.2.3), given as such or as a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:20]), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
    return round(min(max(seconds, 0.0), LONGEST_WAIT), 3)


def _joined(items: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    values: dict[str, list[str]] = {}
    for name, value in items:
        values.setdefault(name.lower(), []).append(value)
    return ((name, ", ".join(several)) for name, several in values.items())


def _shown(name: str, value: str, secrets: Secrets) -> str:
    if name in _CREDENTIALS or is_secret_name(name):
        return _REDACTED
    return secrets.redact_text(shown_url(value) if name in _LINKS else value)


def _shown_parameter(found: re.Match[str]) -> str:
    name = found["name"]
    if _SIGNED.fullmatch(name) or is_secret_name(name):
        return f"{found['lead']}{name}={_REDACTED}"
    return found[0]
