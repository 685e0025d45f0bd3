"""Tests of runners.http.addresses: which address belongs to whom, however it is written."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.http.addresses import AddressClass, classify, normalized, parse

V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address)
GIVEN_OUT = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((text, "public") for text in ("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0")),
        *((text, "public") for text in ("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0")),
        *(
            (text, "public")
            for text in ("172.15.255.255", "172.32.0.0", "192.167.0.1", "192.169.0.1", "223.255.255.255")
        ),
        *((text, "private") for text in ("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.1.1")),
        *((text, "private") for text in ("100.64.0.0", "100.127.255.255", "fc00::", "fdff::1")),
        *((text, "loopback") for text in ("127.0.0.1", "127.255.255.255", "::1")),
        *((text, "metadata") for text in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192")),
        *((text, "metadata") for text in ("169.254.170.2", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42")),
        *((text, "link-local") for text in ("169.254.0.1", "169.254.169.253", "fe80::1", "febf::", "fe80::1%eth0")),
        *((text, "multicast") for text in ("224.0.0.1", "239.255.255.255", "ff02::1")),
        *((text, "unspecified") for text in ("0.0.0.0", "0.1.2.3", "::")),
        *((text, "reserved") for text in ("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1")),
        *((text, "reserved") for text in ("240.0.0.1", "255.255.255.255", "192.88.99.1")),
        *((text, "public") for text in ("2606:4700::1111", "2001:4860:4860::8888", "2a00::1", "3ffe::")),
        *((text, "reserved") for text in ("2001:db8::1", "2001::1", "2001:1ff::", "3fff::1", "100::1", "4000::")),
        *((text, "reserved") for text in ("fec0::1", "5f00::1", "::2", "64:ff9b:1::1", "::ffff:0:7f00:1", "fe00::1")),
    ],
)
def test_each_kind_of_address(address: str, expected: str) -> None:
    """The edges of the table, on both sides."""
    assert classify(ip_address(address)) == expected


@given(V4)
def test_an_address_inside_another_has_its_class(inner: IPv4Address) -> None:
    """Mapped, translated and 6to4 addresses all lead to the IPv4 address in them."""
    number = int(inner)
    for outer in (0xFFFF << 32 | number, 0x0064_FF9B << 96 | number, 0x2002 << 112 | number << 80 | 1):
        assert classify(IPv6Address(outer)) is classify(inner)


@given(V4)
def test_what_is_public_is_global_to_the_standard_library_too(address: IPv4Address) -> None:
    """Our table is the stricter one."""
    if classify(address) is AddressClass.PUBLIC:
        assert address.is_global


@given(V6)
def test_of_ipv6_only_what_has_been_given_out_is_public(address: IPv6Address) -> None:
    """That is an eighth of it, and what leads to IPv4."""
    if classify(address) is AddressClass.PUBLIC and address.ipv4_mapped is None and address not in NAT64:
        assert address in GIVEN_OUT


@given(V4 | V6)
def test_an_address_is_read_back(address: IPv4Address | IPv6Address) -> None:
    """A URL's host that is an address is that address, an IPv4-mapped one the IPv4 address."""
    assert parse(str(address)) == normalized(address)
    assert classify(normalized(address)) is classify(address)


@pytest.mark.parametrize(
    "name", ["", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "1.2.3.4.5", "[::1]", "010.0.0.1"]
)
def test_a_name_is_no_address(name: str) -> None:
    """What only a resolver takes for an address is left to it."""
    assert parse(name) is None
