"""Decides which addresses a request may be sent to, by the worker's policy and by what led there. Pure.

In the profile `open` everything is allowed. Otherwise metadata, link-local, multicast, unspecified and reserved
addresses never are, nor is what the worker itself depends on. Loopback and private ones are for the task's own URL: a
redirect stays within their class, or leads to the public. In `strict` they are closed altogether, and of public ones
all ports but 80 and 443. Two lists open more: `allow_cidrs` are networks like public ones, on any port; `allow_hosts`,
if there are any, are the only hosts, wherever and on whatever port they are.
"""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final

from msgspec import Struct

from runners.context import Policy
from runners.errors import AddressBlockedError, PolicyDeniedError, RunnerError

from .addresses import Address, AddressClass, classify, parse

NEVER: Final = frozenset({
    AddressClass.METADATA,
    AddressClass.LINK_LOCAL,
    AddressClass.MULTICAST,
    AddressClass.UNSPECIFIED,
    AddressClass.RESERVED,
})  # fmt: skip
"""What no task may reach."""
STRICT_PORTS: Final = frozenset({80, 443})


class Target(Struct, frozen=True, kw_only=True):
    """Where a request is about to go. `came_from` is the class of the address that redirected it there, if one did."""

    host: str
    port: int
    came_from: AddressClass | None = None


class Guard:
    """One policy, applied to one target after the other. `category` is for naming the rule."""

    def __init__(self, policy: Policy, category: str) -> None:
        self._policy = policy
        self._rules = f"runners.{category}"
        self._allowed = [ip_network(text, strict=False) for text in policy.allow_cidrs]

    def check(self, target: Target, addresses: Sequence[Address]) -> None:
        """Refuse a target if any of its addresses is forbidden.

        Raises:
            AddressBlockedError: one of them is of a class that the task may not reach.
            PolicyDeniedError: the worker's lists or ports leave the target out.
        """
        if self._policy.profile == "open":
            return
        for address in addresses:
            if (objection := self._objection(target, address)) is not None:
                raise objection

    def _objection(self, target: Target, address: Address) -> RunnerError | None:
        kind = classify(address)
        if kind in NEVER or self._is_own(target, address):
            why = f"no task may reach {kind} addresses" if kind in NEVER else "the worker itself is connected there"
            return _blocked(target, address, why)
        if any(address in network for network in self._allowed):
            return None
        listed = _is_listed(target.host, self._policy.allow_hosts)
        if self._policy.allow_hosts and not listed:
            return PolicyDeniedError(f"the host {target.host!r} is not on {self._rules}.allow_hosts")
        is_strict = self._policy.profile == "strict" and not listed
        if kind is not AddressClass.PUBLIC:
            return self._objection_to_inside(target, address, kind, is_strict=is_strict)
        if is_strict and target.port not in STRICT_PORTS:
            return PolicyDeniedError(f"the profile `strict` allows the ports 80 and 443, not {target.port}")
        return None

    def _objection_to_inside(
        self, target: Target, address: Address, kind: AddressClass, *, is_strict: bool
    ) -> RunnerError | None:
        if is_strict:
            rule = f"{self._rules}.allow_cidrs"
            return _blocked(target, address, f"of {kind} addresses the profile `strict` allows only those of {rule}")
        if target.came_from not in {None, kind}:
            return _blocked(target, address, f"only the task's own URL may lead to {kind} addresses")
        return None

    def _is_own(self, target: Target, address: Address) -> bool:
        """Tell whether an address is one of the worker's own servers; on one machine, loopback is one address."""
        for endpoint in self._policy.own_endpoints:
            host, _, port = endpoint.rpartition(":")
            if port != str(target.port):
                continue
            own = parse(host.strip("[]"))
            is_here = host == "localhost" or (own is not None and classify(own) is AddressClass.LOOPBACK)
            if address == own or host == target.host or (is_here and classify(address) is AddressClass.LOOPBACK):
                return True
        return False


def _is_listed(host: str, patterns: Sequence[str]) -> bool:
    """Tell whether a host is one of the patterns, of which `*.example.org` means all below it."""
    name = host.lower().rstrip(".")
    return any(
        name.endswith(pattern[1:].lower()) if pattern.startswith("*.") else name == pattern.lower()
        for pattern in patterns
    )


def _blocked(target: Target, address: Address, why: str) -> AddressBlockedError:
    where = str(address) if target.host == str(address) else f"{target.host} ({address})"
    return AddressBlockedError(f"{where} is blocked: {why}")
