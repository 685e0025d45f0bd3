"""HttpRunner: one request, its redirects if the task wants them, and its response in the Result."""

import functools
import ssl
from http import HTTPStatus
from http.client import responses
from typing import Final

import anyio.lowlevel
import httpx
from msgspec import structs

from runners.base import Runner
from runners.context import DEFAULT_OUTPUT_LIMIT
from runners.errors import (
    SUCCESS,
    HttpProtocolError,
    InvalidTaskError,
    NetworkError,
    Outcome,
    PolicyDeniedError,
    TooManyRedirectsError,
    failed,
)
from runners.process.limits import unenforced
from schemas import HttpResponse

from .decoding import MAX_RATIO, BombError, CorruptError, Decoder, Identity, decoder_for
from .failures import FAILURES, explain
from .guard import Guard
from .params import DEFAULT_REDIRECTS, HttpParams
from .progress import Progress
from .redirects import Hop, next_hop
from .resolving import Resolver, resolve
from .response import MAX_HEADERS, retry_after, shown_headers, shown_url
from .statuses import StatusSet
from .transport import GuardedBackend, GuardedTransport

_DEFAULT_HEADERS: Final = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "jetrunner",
}
_TEMPORARY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class HttpRunner(Runner[HttpParams]):
    """Sends a request; a status that the task expects is success. A stop and a kill close the connection at once."""

    params_type = HttpParams
    command_field = "url"
    reports_start = True

    def __init__(self, resolver: Resolver = resolve) -> None:
        super().__init__()
        self._resolver = resolver
        self._progress = Progress()
        self._cookies = httpx.Cookies()
        self._answered = False
        """Whether the response has come as far as anybody wanted it."""

    async def run(self, params: HttpParams) -> Outcome:
        self._check_policy(params)
        self.report.limits = unenforced(self.context, "a request")
        self.keep_secret(params.secrets())
        context = _ssl_context(params.verify)
        self._progress = Progress()
        self.started(url=self._shown(params.target))
        try:
            return await self._fetch(params, context)
        except FAILURES as error:
            failure = explain(error, self._progress)
        except NetworkError as error:
            failure = error
        finally:
            self._note_end(params)
        return self._judge(failure.outcome, params)

    def _check_policy(self, params: HttpParams) -> None:
        profile = self.context.policy.profile
        if profile == "open":
            return
        if params.verify is not True:
            raise PolicyDeniedError(f"the profile `{profile}` allows no `verify` but true")
        most = DEFAULT_REDIRECTS if profile == "standard" else 0
        if params.redirects > most:
            raise PolicyDeniedError(f"the profile `{profile}` allows `follow_redirects` up to {most}")

    async def _fetch(self, params: HttpParams, context: ssl.SSLContext) -> Outcome:
        task = self.context.task
        guard = Guard(self.context.policy, task.category or "http")
        hop = Hop(
            method=params.verb,
            url=params.target,
            headers=params.request_headers(task.id or ""),
            body=params.content(),
        )
        async with GuardedTransport(GuardedBackend(guard, self._resolver, self._progress), context) as transport:
            for _ in range(params.redirects + 1):
                response = await self._send(transport, hop, params)
                try:
                    following = next_hop(hop, response) if params.redirects else None
                    if following is None:
                        return await self._receive(response, params)
                finally:
                    await response.aclose()
                hop = following
        last = self._shown(hop.url)
        raise TooManyRedirectsError(f"there were more than {params.redirects} redirects; the last led to {last}")

    async def _send(self, transport: GuardedTransport, hop: Hop, params: HttpParams) -> httpx.Response:
        headers = httpx.Headers({**_DEFAULT_HEADERS, **self.context.trace})
        headers.update(hop.headers)
        seconds = {"connect": params.connect_timeout, "read": params.read_timeout, "write": params.read_timeout}
        request = httpx.Request(
            hop.method,
            hop.url,
            headers=headers,
            content=hop.body,
            cookies=self._cookies,
            extensions={"timeout": seconds},
        )
        response = await transport.handle_async_request(request)
        if params.redirects:
            self._cookies.extract_cookies(response)
        self._note_response(hop.url, response)
        return response

    async def _receive(self, response: httpx.Response, params: HttpParams) -> Outcome:
        self._progress.enter("body")
        decoder = decoder_for(response.headers.get("content-encoding", ""))
        if decoder is None and self.report.http is not None:
            self.report.http = structs.replace(self.report.http, decoded=False)
        try:
            cut = await self._copy(response, decoder or Identity())
        except CorruptError as error:
            raise HttpProtocolError(str(error)) from None
        self.ended()
        self._answered = True
        if cut:
            self.capture("stdout").cut()
            self.report.output_complete = False
            self.report.warnings.append(cut)
        if response.status_code not in params.expected:
            return self._judge(_unexpected(response, params.expected), params)
        return failed("body_limit", cut) if cut and params.on_body_limit == "fail" else SUCCESS

    async def _copy(self, response: httpx.Response, decoder: Decoder) -> str:
        """Write the body as far as it may be kept; return why not all of it, if so.

        Raises:
            CorruptError: it is not in its encoding.
        """
        limit = DEFAULT_OUTPUT_LIMIT if self.context.output_limit is None else self.context.output_limit
        too_long = f"the body has more than {limit} bytes: the rest was not received"
        received = room = limit
        try:
            async for chunk in response.aiter_raw():
                received -= len(chunk)
                for piece in decoder.feed(chunk):
                    self.write(piece[:room])
                    room -= len(piece)
                    if room < 0:
                        return too_long
                    await anyio.lowlevel.checkpoint()
                if received < 0:  # encoded, all of it may come to nothing
                    return too_long
            decoder.finish()
        except BombError:
            return f"the body becomes more than {MAX_RATIO} times larger when decoded: the rest was not received"
        return ""

    def _note_response(self, url: httpx.URL, response: httpx.Response) -> None:
        headers, all_kept = shown_headers(response.headers, self._secrets)
        self.report.http = HttpResponse(
            status_code=response.status_code,
            headers=headers,
            url=self._shown(url),
            elapsed=self._progress.elapsed,
        )
        self.report.warnings = [] if all_kept else [f"response headers beyond {MAX_HEADERS} bytes are left out"]

    def _note_end(self, params: HttpParams) -> None:
        """Note how far it came, whatever ended it."""
        report, progress = self.report, self._progress
        report.stage = progress.stage
        if report.http is not None:
            report.http = structs.replace(report.http, elapsed=progress.elapsed)
        if progress.sent and not self._answered and not params.is_safe:
            report.side_effect = "unknown"

    def _judge(self, outcome: Outcome, params: HttpParams) -> Outcome:
        """Leave another try to requests that have had no effect yet, or may have it twice."""
        harmless = params.is_idempotent or not self._progress.sent
        return structs.replace(outcome, retryable=outcome.retryable and harmless)

    def _shown(self, url: httpx.URL) -> str:
        return self._secrets.redact_text(shown_url(str(url)))


def _unexpected(response: httpx.Response, expected: StatusSet) -> Outcome:
    """Return the outcome of a status that is no success; some of them are known to pass."""
    status = response.status_code
    answer = f"{status} {responses[status]}" if status in responses else f"{status}"
    outcome = failed("http_status", f"the server answered {answer}; expected was {expected}")
    temporary = status in _TEMPORARY or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return structs.replace(outcome, retryable=temporary, retry_after=retry_after(response.headers))


def _ssl_context(verify: bool | str) -> ssl.SSLContext:  # noqa: FBT001 - the parameter as the task gives it
    """Return how servers are verified.

    Raises:
        InvalidTaskError: what should be certificates is none.
    """
    if verify is True:
        return _default_ssl_context()
    if verify is False:
        return httpx.create_ssl_context(verify=False, trust_env=False)
    try:
        return ssl.create_default_context(cadata=verify)
    except (ssl.SSLError, ValueError):
        raise InvalidTaskError("in `args`: `verify` holds no PEM certificates") from None


@functools.cache
def _default_ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)
