"""What went wrong on a connection, in our own terms."""

import os
import ssl
from collections.abc import Iterator
from typing import Final

import httpcore
import httpx

from runners.errors import (
    ConnectFailedError,
    ConnectTimeoutError,
    HttpProtocolError,
    NetworkError,
    ReadFailedError,
    TlsError,
)

from .progress import Progress

FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    httpx.HTTPError,
    httpx.StreamError,
    OSError,  # ssl.SSLError among them
    UnicodeError,
    ExceptionGroup,
)
"""What httpx and all below it raise when a request fails."""

_UNTRUSTED: Final = "the certificate of the server is not trusted"


def explain(error: BaseException, progress: Progress) -> NetworkError:
    """Return a failure as an error of ours: its kind follows from how far the request had come."""
    if progress.phase in {"dns", "connect"}:
        if _is_timeout(error):
            return ConnectTimeoutError("the server could not be connected to in time")
        return ConnectFailedError(f"the server could not be connected to: {_reason(error)}")
    if progress.phase == "tls":
        return _explain_tls(error)
    if isinstance(error, httpcore.ProtocolError) and not progress.closed_by_server:
        return HttpProtocolError(f"the server does not keep to HTTP: {error}")
    if _is_timeout(error):
        return ReadFailedError(f"no byte moved within the `read_timeout` while the task {progress.stage}")
    return ReadFailedError(f"the connection broke while the task {progress.stage}")


def _explain_tls(error: BaseException) -> NetworkError:
    if _is_timeout(error):
        return ConnectTimeoutError("the TLS handshake did not end in time")
    cause = next((link for link in _chain(error) if isinstance(link, ssl.SSLError)), None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TlsError(f"{_UNTRUSTED}: {cause.verify_message} (verify_code {cause.verify_code})")
    if cause is None or isinstance(cause, ssl.SSLEOFError) or "EOF" in (cause.reason or ""):
        return TlsError("the server broke off the TLS handshake", retryable=True)
    return TlsError(f"the TLS handshake failed: {cause.reason or cause}")


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, (httpcore.TimeoutException, TimeoutError))


def _reason(error: BaseException) -> str:
    """Return the system's own words, if there are any."""
    words = [os.strerror(link.errno) for link in _chain(error) if isinstance(link, OSError) and link.errno]
    return words[-1] if words else str(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
