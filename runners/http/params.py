"""The parameters of an HTTP task, and what is refused of them before anything is sent. Pure."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import httpx
import msgspec
from msgspec import Meta

from runners.redaction import is_secret_name
from schemas import Duration

from .addresses import parse
from .statuses import Expected, StatusSet

DEFAULT_REDIRECTS: Final = 5
MAX_REDIRECTS: Final = 10

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})
"""Headers that belong to the connection, and so to us."""
_CREDENTIALS: Final = frozenset({"authorization", "cookie"})
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_MAX_PORT: Final = 65535
_MAX_HOST: Final = 253
_HOST: Final = re.compile(rf"(?=.{{1,{_MAX_HOST}}}$)[\w-]{{1,63}}(\.[\w-]{{1,63}})*\.?", re.ASCII)


class HttpParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request, what answer to it is a success, and how far it may go for one.

    `body` is text, or any other JSON value, which is sent as JSON; `body_base64` is bytes. `follow_redirects` is a
    number, or true for 5. `verify` is false for no verification, or PEM certificates to verify with. Within the
    `read_timeout` some byte must move, in either direction.
    """

    url: str = ""
    method: str = "GET"
    headers: dict[str, str] = {}
    body: Any = None
    body_base64: str | None = None
    expected_status: Expected = "200-299"
    follow_redirects: bool | Annotated[int, Meta(ge=0, le=MAX_REDIRECTS)] = False
    verify: bool | str = True
    on_body_limit: Literal["truncate", "fail"] = "truncate"
    connect_timeout: Annotated[Duration, Meta(extra_json_schema={"default": 10})] = msgspec.field(
        default_factory=lambda: Duration(10)
    )
    read_timeout: Annotated[Duration, Meta(extra_json_schema={"default": 30})] = msgspec.field(
        default_factory=lambda: Duration(30)
    )

    def __post_init__(self) -> None:
        parse_url(self.url)
        if not _TOKEN.fullmatch(self.method) or self.method.upper() == "CONNECT":
            raise ValueError(f"`method` is {self.method!r}, which is none that a task can use")
        _check_headers(self.headers)
        StatusSet.parse(self.expected_status)
        if self.body is not None and self.body_base64 is not None:
            raise ValueError("only one of `body` and `body_base64` may be given")
        self._encode_body()
        for name in ("connect_timeout", "read_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be more than 0")

    @property
    def target(self) -> httpx.URL:
        """The URL without credentials and fragment."""
        return parse_url(self.url).copy_with(userinfo=b"", fragment=None)

    @property
    def verb(self) -> str:
        """The method as servers know it."""
        return self.method.upper()

    @property
    def is_safe(self) -> bool:
        """Whether the request asks for no effect (RFC 9110, section 9.2.1)."""
        return self.verb in _SAFE

    @property
    def is_idempotent(self) -> bool:
        """Whether sending it twice does no harm: by its method, or because the task gave it a key of its own."""
        return self.verb in _IDEMPOTENT or self._has("idempotency-key")

    @property
    def expected(self) -> StatusSet:
        """The statuses that are a success."""
        return StatusSet.parse(self.expected_status)

    @property
    def redirects(self) -> int:
        """How many redirects are followed."""
        return DEFAULT_REDIRECTS if self.follow_redirects is True else int(self.follow_redirects)

    def content(self) -> bytes | None:
        """Return the request's body."""
        return self._encode_body()

    def request_headers(self, task_id: str) -> httpx.Headers:
        """Return the task's headers, and those that follow from the rest of it."""
        headers = httpx.Headers({name: value.strip(" \t") for name, value in self.headers.items()})
        url = parse_url(self.url)
        if url.userinfo:
            headers.setdefault("Authorization", _basic(url))
        if self.body is not None and not isinstance(self.body, str):
            headers.setdefault("Content-Type", "application/json")
        if self.verb not in _IDEMPOTENT and task_id:
            headers.setdefault("Idempotency-Key", task_id)
        return headers

    def secrets(self) -> Iterator[str]:
        """Yield what must not be shown: credentials in headers and in the URL."""
        for name, value in self.headers.items():
            if name.lower() in _CREDENTIALS or is_secret_name(name):
                yield value
                yield from _credentials_in(value)
        url = parse_url(self.url)
        if url.password:
            yield url.password
            yield from _basic(url).split(" ")[1:]

    def _has(self, header: str) -> bool:
        return any(name.lower() == header for name in self.headers)

    def _encode_body(self) -> bytes | None:
        if self.body_base64 is not None:
            return _from_base64(self.body_base64)
        if self.body is None:
            return None
        try:
            return self.body.encode() if isinstance(self.body, str) else msgspec.json.encode(self.body)
        except UnicodeError:
            raise ValueError("`body` contains a lone surrogate, which no request can hold") from None


def parse_url(text: str) -> httpx.URL:
    """Read a task's URL.

    Raises:
        ValueError: there is none, or none that can be requested; the text shows nothing of it but the part at fault.
    """
    if not text:
        raise ValueError("`url` is missing")
    try:
        url = httpx.URL(text)
        host, port = url.raw_host.decode("ascii"), url.port
    except (httpx.InvalidURL, UnicodeError, ValueError):  # whose words may repeat a password
        raise ValueError("`url` cannot be read: its host, port or characters are none that a URL can have") from None
    if url.scheme not in {"http", "https"}:
        raise ValueError("`url` must begin with http:// or https://")
    if not host:
        raise ValueError("`url` names no host")
    if port is not None and not 0 < port <= _MAX_PORT:
        raise ValueError(f"`url` has the port {port}, which is not one of 1 to {_MAX_PORT}")
    if parse(host) is None and not _HOST.fullmatch(host):
        raise ValueError(f"`url` has the host {host[:_MAX_HOST]!r}, which cannot be one")
    return url


def _check_headers(headers: dict[str, str]) -> None:
    seen: set[str] = set()
    for name, value in headers.items():
        key = name.lower()
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"`headers` has the name {name!r}, which no header can have")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"`headers.{name}` must hold printable ASCII characters only, on one line")
        if key in _OURS or key.startswith("proxy-"):
            raise ValueError(f"`headers.{name}` belongs to the connection and cannot be given")
        if key in seen:
            raise ValueError(f"`headers.{name}` is given twice, in different cases")
        seen.add(key)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("`body_base64` must be padded base64 text") from None


def _basic(url: httpx.URL) -> str:
    """Return the `Authorization` that a URL's user and password stand for (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")


def _credentials_in(value: str) -> Iterator[str]:
    """Yield what is secret in a header's value: what follows a scheme's name, and the values of cookies."""
    scheme, _, rest = value.strip().partition(" ")
    if rest:
        yield rest.strip()
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(rest).decode().partition(":")[2]
        except ValueError:
            return
    for cookie in value.split(";"):
        yield cookie.partition("=")[2].strip()
