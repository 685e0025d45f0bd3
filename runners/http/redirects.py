"""Where a redirect leads, and what of the request goes with it. Pure."""

from typing import Final

import httpx
from msgspec import Struct, structs

from runners.errors import RedirectBlockedError

from .params import parse_url

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TURN_POST_TO_GET: Final = frozenset({301, 302})
_SEE_OTHER: Final = 303
_KEPT_ACROSS_ORIGINS: Final = frozenset({"content-type", "user-agent"})


class Hop(Struct, frozen=True, kw_only=True):
    """One request on the way to the response; its URL has no credentials."""

    method: str
    url: httpx.URL
    headers: httpx.Headers
    body: bytes | None = None


def next_hop(hop: Hop, response: httpx.Response) -> Hop | None:
    """Return the request that a response leads to (RFC 9110, section 15.4); None if it is no redirect.

    Raises:
        RedirectBlockedError: it leads to no URL, from https to http, or would give the body to another origin.
    """
    location = response.headers.get("location")
    if response.status_code not in _REDIRECTS or location is None:
        return None
    url = _target(hop.url, location)
    if hop.url.scheme == "https" and url.scheme == "http":
        raise RedirectBlockedError("a redirect was not followed: it leads from https to http")
    following = _without_body(hop) if _drops_body(hop.method, response.status_code) else hop
    if _origin(url) != _origin(hop.url):
        following = _for_another_origin(following)
    return structs.replace(following, url=url)


def _target(base: httpx.URL, location: str) -> httpx.URL:
    try:
        url = parse_url(str(base.join(location)))
    except (ValueError, httpx.InvalidURL) as error:
        reason = str(error).replace("`url`", "its `Location`", 1)
        raise RedirectBlockedError(f"a redirect was not followed: {reason}") from None
    return url.copy_with(userinfo=b"", fragment=None)


def _drops_body(method: str, status: int) -> bool:
    return (status == _SEE_OTHER and method != "HEAD") or (status in _TURN_POST_TO_GET and method == "POST")


def _without_body(hop: Hop) -> Hop:
    headers = httpx.Headers(hop.headers)
    for name in [name for name in headers if name.startswith("content-") or name == "idempotency-key"]:
        del headers[name]
    return structs.replace(hop, method="GET", body=None, headers=headers)


def _for_another_origin(hop: Hop) -> Hop:
    """Take along only what may be told to anybody."""
    if hop.body is not None:
        raise RedirectBlockedError("a redirect was not followed: it would give the body to another origin")
    kept = {
        name: value for name, value in hop.headers.items() if name in _KEPT_ACROSS_ORIGINS or name.startswith("accept")
    }
    return structs.replace(hop, headers=httpx.Headers(kept))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
