"""Sends alerts to webhooks: a POST of JSON, tried a few times. URLs are the operator's, and may hold keys: unsaid.

The standard library's client is enough here, and logs nothing.
"""

import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from schemas import encode
from schemas.alert import Alert

TRIES: Final = 3
_WITHIN: Final = 5.0
_FIRST_PAUSE: Final = 0.5

logger = logging.getLogger(__name__)


async def send(webhooks: Sequence[str], alerts: Sequence[Alert]) -> None:
    """Send each alert to each webhook, in order at each of them; what cannot be sent is logged and given up."""

    async def send_all(url: str) -> None:
        for alert in alerts:
            await _send(url, alert)

    async with anyio.create_task_group() as sending:
        for url in webhooks:
            sending.start_soon(send_all, url)


async def _send(url: str, alert: Alert) -> None:
    pause, problem = _FIRST_PAUSE, ""
    for number in range(TRIES):
        if number:
            await anyio.sleep(pause)
            pause *= 2
        with anyio.move_on_after(2 * _WITHIN):
            problem = await anyio.to_thread.run_sync(_post, url, alert, abandon_on_cancel=True)
            if not problem:
                return
    where = urlsplit(url).hostname
    logger.error("the alert %s was not taken by %s: %s", alert.id, where, problem or "no answer")


def _post(url: str, alert: Alert) -> str:
    """Post once; return what went wrong, if anything."""
    headers = {"Content-Type": "application/json", "User-Agent": "jetrunner", "Idempotency-Key": alert.id}
    request = urllib.request.Request(url, encode(alert), headers, method="POST")  # noqa: S310 - http(s) by its setting
    try:
        with _OPENER.open(request, timeout=_WITHIN):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code} {HTTPStatus(error.code).phrase if error.code in _KNOWN else ''}".rstrip()
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: a redirected POST would arrive without its body."""

    def redirect_request(self, *_: Any) -> None:
        """Take a redirect for an error."""


_OPENER: Final = urllib.request.build_opener(_NoRedirect)
_KNOWN: Final = frozenset(status.value for status in HTTPStatus)
