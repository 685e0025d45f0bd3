"""Tests of runners.http.guard: who may reach what, by profile, lists, and where a redirect came from."""

from ipaddress import ip_address
from typing import Any, Literal

import pytest

from runners.context import Policy
from runners.errors import AddressBlockedError, PolicyDeniedError
from runners.http.addresses import AddressClass
from runners.http.guard import Guard, Target

PUBLIC = "1.1.1.1"
PRIVATE = "10.0.0.1"
LOOPBACK = "127.0.0.1"
FORBIDDEN = ["169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::", "203.0.113.1", "fd00:ec2::254"]


def verdict(
    *addresses: str,
    host: str = "example.org",
    port: int = 443,
    came_from: AddressClass | None = None,
    profile: Literal["open", "standard", "strict"] = "standard",
    **policy: Any,
) -> str | None:
    """Return the code of the refusal, None if there is none."""
    guard = Guard(Policy(profile=profile, **policy), "http")
    try:
        guard.check(Target(host=host, port=port, came_from=came_from), [ip_address(text) for text in addresses])
    except (AddressBlockedError, PolicyDeniedError) as error:
        return error.code
    return None


@pytest.mark.parametrize("address", FORBIDDEN)
def test_some_addresses_are_never_reached(address: str) -> None:
    """Neither a list nor a task opens them; the profile `open` does."""
    for profile in ("standard", "strict"):
        lists = {"allow_cidrs": ("0.0.0.0/0", "::/0"), "allow_hosts": ("example.org",)}
        assert verdict(address, profile=profile, **lists) == "address_blocked"  # type: ignore[arg-type]
    assert verdict(address, profile="open") is None


def test_one_bad_answer_is_enough() -> None:
    """All addresses of a name are vetted."""
    assert verdict(PUBLIC, PRIVATE, FORBIDDEN[0]) == "address_blocked"
    assert verdict(PUBLIC, PRIVATE, profile="strict") == "address_blocked"


@pytest.mark.parametrize("address", [PUBLIC, PRIVATE, LOOPBACK, "::1", "fd12::1", "2606:4700::1111"])
def test_the_task_s_own_url_may_lead_inside(address: str) -> None:
    """Internal services are what such a worker is for."""
    assert verdict(address, port=8080) is None


@pytest.mark.parametrize(
    ("came_from", "address", "code"),
    [
        (AddressClass.PUBLIC, PUBLIC, None),
        (AddressClass.PRIVATE, PUBLIC, None),
        (AddressClass.LOOPBACK, PUBLIC, None),
        (AddressClass.PRIVATE, PRIVATE, None),
        (AddressClass.LOOPBACK, LOOPBACK, None),
        (AddressClass.PUBLIC, PRIVATE, "address_blocked"),
        (AddressClass.PUBLIC, LOOPBACK, "address_blocked"),
        (AddressClass.PRIVATE, LOOPBACK, "address_blocked"),
        (AddressClass.LOOPBACK, PRIVATE, "address_blocked"),
    ],
)
def test_a_redirect_does_not_lead_further_inside(came_from: AddressClass, address: str, code: str | None) -> None:
    """It stays in its class, or leads to the public; listed networks count as public."""
    assert verdict(address, came_from=came_from) == code
    assert verdict(address, came_from=came_from, allow_cidrs=("10.0.0.0/8", "127.0.0.0/8")) is None
    assert verdict(address, came_from=came_from, profile="open") is None


@pytest.mark.parametrize(
    ("address", "port", "policy", "code"),
    [
        (PUBLIC, 80, {}, None),
        (PUBLIC, 443, {}, None),
        (PUBLIC, 8080, {}, "policy_denied"),
        (PRIVATE, 443, {}, "address_blocked"),
        (LOOPBACK, 443, {}, "address_blocked"),
        (PRIVATE, 8080, {"allow_cidrs": ("10.0.0.0/8",)}, None),
        (PRIVATE, 443, {"allow_cidrs": ("192.168.0.0/16",)}, "address_blocked"),
        (PRIVATE, 8080, {"allow_hosts": ("example.org",)}, None),
        (PUBLIC, 443, {"allow_hosts": ("example.com",)}, "policy_denied"),
        (PRIVATE, 443, {"allow_hosts": ("example.com",), "allow_cidrs": ("10.1.2.3/8",)}, None),
    ],
)
def test_strict_is_for_the_public_and_what_is_listed(
    address: str, port: int, policy: dict[str, Any], code: str | None
) -> None:
    """Public addresses on two ports; of the rest, what the lists name."""
    assert verdict(address, port=port, profile="strict", **policy) == code


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("example.org", "example.org", True),
        ("Example.ORG", "EXAMPLE.org.", True),
        ("example.org", "a.example.org", False),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "evilexample.org", False),
        ("1.1.1.1", "1.1.1.1", True),
    ],
)
def test_a_list_of_hosts_is_kept_to_in_standard_too(pattern: str, host: str, allowed: Any) -> None:
    """Where there is one, it has all hosts there are."""
    assert verdict(PUBLIC, host=host, allow_hosts=(pattern,)) == (None if allowed else "policy_denied")


@pytest.mark.parametrize(
    ("endpoint", "host", "address", "port", "blocked"),
    [
        ("127.0.0.1:4222", "localhost", "127.0.0.1", 4222, True),
        ("localhost:4222", "127.0.0.1", "127.0.0.1", 4222, True),
        ("127.0.0.1:4222", "::1", "::1", 4222, True),
        ("nats.internal:4222", "nats.internal", PRIVATE, 4222, True),
        (f"{PRIVATE}:4222", "other", PRIVATE, 4222, True),
        ("[fd12::1]:4222", "other", "fd12::1", 4222, True),
        ("127.0.0.1:4222", "localhost", "127.0.0.1", 8222, False),
        ("127.0.0.1:4222", "other", PRIVATE, 4222, False),
    ],
)
def test_the_worker_s_own_servers(endpoint: str, host: str, address: str, port: int, blocked: Any) -> None:
    """They are recognized by name, by address, and on this machine by their port."""
    code = verdict(address, host=host, port=port, own_endpoints=(endpoint,), allow_cidrs=("0.0.0.0/0",))
    assert code == ("address_blocked" if blocked else None)
