"""What kind of network an IP address belongs to. Pure.

The table follows the IANA special-purpose registries (RFC 6890 and successors), not the standard library's
`is_global`, which changes with its version and knows nothing of metadata services.
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address


class AddressClass(StrEnum):
    """Whom an address belongs to."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    METADATA = "metadata"
    LINK_LOCAL = "link-local"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    RESERVED = "reserved"


def classify(address: Address) -> AddressClass:
    """Return an address's class; one that embeds an IPv4 address has that one's."""
    if isinstance(address, IPv4Address):
        return _look_up(address, _IPV4, AddressClass.PUBLIC)
    embedded = _embedded(address)
    return _look_up(address, _IPV6, AddressClass.RESERVED) if embedded is None else classify(embedded)


def normalized(address: Address) -> Address:
    """Return the IPv4 address that an IPv4-mapped one is, any other as it stands."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a packet to an IPv6 address ends up at: mapped, translated (NAT64), or 6to4."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _look_up(
    address: Address, table: tuple[tuple[IPv4Network | IPv6Network, AddressClass], ...], default: AddressClass
) -> AddressClass:
    return next((kind for network, kind in table if address in network), default)


def _table(rows: dict[str, AddressClass]) -> tuple[tuple[IPv4Network | IPv6Network, AddressClass], ...]:
    """Return networks, the narrowest first, so that the first match is the right one."""
    networks = [(ip_network(text), kind) for text, kind in rows.items()]
    return tuple(sorted(networks, key=lambda row: row[0].prefixlen, reverse=True))


_NAT64: Final = IPv6Network("64:ff9b::/96")
_IPV4: Final = _table({
    "0.0.0.0/8": AddressClass.UNSPECIFIED,  # this network: the kernel takes 0.0.0.0 for loopback
    "10.0.0.0/8": AddressClass.PRIVATE,
    "100.64.0.0/10": AddressClass.PRIVATE,  # shared by carriers, and by overlay networks
    "100.100.100.200/32": AddressClass.METADATA,  # Alibaba Cloud
    "127.0.0.0/8": AddressClass.LOOPBACK,
    "168.63.129.16/32": AddressClass.METADATA,  # Azure
    "169.254.0.0/16": AddressClass.LINK_LOCAL,
    "169.254.169.254/32": AddressClass.METADATA,  # AWS, Azure, Google Cloud and others
    "169.254.170.2/32": AddressClass.METADATA,  # AWS, credentials of containers
    "169.254.170.23/32": AddressClass.METADATA,  # AWS, credentials of pods
    "172.16.0.0/12": AddressClass.PRIVATE,
    "192.0.0.0/24": AddressClass.RESERVED,  # protocol assignments
    "192.0.0.192/32": AddressClass.METADATA,  # Oracle Cloud
    "192.0.2.0/24": AddressClass.RESERVED,  # documentation
    "192.88.99.0/24": AddressClass.RESERVED,  # 6to4 relays, deprecated
    "192.168.0.0/16": AddressClass.PRIVATE,
    "198.18.0.0/15": AddressClass.RESERVED,  # benchmarks
    "198.51.100.0/24": AddressClass.RESERVED,  # documentation
    "203.0.113.0/24": AddressClass.RESERVED,  # documentation
    "224.0.0.0/4": AddressClass.MULTICAST,
    "240.0.0.0/4": AddressClass.RESERVED,  # and broadcast
})  # fmt: skip
"""All else is public."""
_IPV6: Final = _table({
    "::/128": AddressClass.UNSPECIFIED,
    "::1/128": AddressClass.LOOPBACK,
    "2000::/3": AddressClass.PUBLIC,
    "2001::/23": AddressClass.RESERVED,  # protocol assignments, Teredo and benchmarks among them
    "2001:db8::/32": AddressClass.RESERVED,  # documentation
    "3fff::/20": AddressClass.RESERVED,  # documentation
    "fc00::/7": AddressClass.PRIVATE,
    "fd00:42::42/128": AddressClass.METADATA,  # Scaleway
    "fd00:ec2::23/128": AddressClass.METADATA,  # AWS, credentials of pods
    "fd00:ec2::254/128": AddressClass.METADATA,  # AWS
    "fd20:ce::254/128": AddressClass.METADATA,  # Google Cloud
    "fe80::/10": AddressClass.LINK_LOCAL,
    "ff00::/8": AddressClass.MULTICAST,
})  # fmt: skip
"""All else is reserved: IANA has given out nothing beyond 2000::/3 that a task could want."""


def parse(text: str) -> Address | None:
    """Return the address that a URL's host is, None if it is a name."""
    try:
        return normalized(ip_address(text))
    except ValueError:
        return None
