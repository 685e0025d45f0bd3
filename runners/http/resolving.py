"""Resolves host names on threads of their own, so that a slow name server delays nobody else."""

import functools
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from runners.errors import DnsError

from .addresses import Address, normalized, parse

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Returns the addresses of a host, the best first; raises DnsError if there are none."""

MAX_LOOKUPS: Final = 32
"""Names that are resolved at once."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Ask the system for a host's addresses.

    Raises:
        DnsError: there are none.
    """
    if (literal := parse(host)) is not None:
        return [literal]
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=_limiter())
    except socket.gaierror as error:
        raise DnsError(f"the host {host!r} was not found: {error.strerror}") from None
    except (OSError, UnicodeError) as error:
        raise DnsError(f"the host {host!r} could not be resolved: {error}") from None
    return list(dict.fromkeys(normalized(ip_address(row[4][0])) for row in found))


def _limiter() -> anyio.CapacityLimiter:
    """Return this event loop's own threads for the purpose."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_LOOKUPS)
        _LIMITER.set(limiter)
        return limiter


_LIMITER: Final = RunVar[anyio.CapacityLimiter]("http lookups")
