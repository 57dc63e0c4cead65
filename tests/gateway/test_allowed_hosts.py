"""Every network of IANA's special-purpose registries, at both ends and just outside.

Nothing here asks Python's `ipaddress` for a judgement; it only carries the numbers.
"""

import ipaddress
import socket
from collections.abc import Callable

import pytest

from gateway.allowed_hosts import AllowedHosts, is_public

IPV4 = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
192.0.0.0/29 192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24
192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.88.99.2/32 192.168.0.0/16 192.175.48.0/24
198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 255.255.255.255/32 168.63.129.16/32
""".split()
"""The registry of 2025-10-09, multicast, and Azure's own address."""

IPV6 = """
::1/128 ::/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:2::/48
2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28 2001:db8::/32 2620:4f:8000::/48 3fff::/20
5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8 ::/96 ::ffff:0:0:0/96
""".split()
"""The same for IPv6, without the four that hold IPv4 addresses; and what RFC 4291 knows besides."""

WRAPPED: dict[str, Callable[[int], int]] = {
    "mapped": lambda number: 0xFFFF << 32 | number,
    "NAT64": lambda number: 0x64FF9B << 96 | number,
    "6to4": lambda number: 0x2002 << 112 | number << 80 | 1,
    "Teredo": lambda number: 0x20010000 << 96 | 0x08080808 << 64 | number ^ 0xFFFFFFFF,
}


def ends(network: str) -> tuple[int, int]:
    """The first and the last address of a network."""
    address, _, length = network.partition("/")
    family, bits = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    first = int.from_bytes(socket.inet_pton(family, address), "big")
    return first, first | (1 << bits - int(length)) - 1


def is_special(number: int, networks: list[str]) -> bool:
    return any(first <= number <= last for first, last in map(ends, networks))


@pytest.mark.parametrize("network", IPV4)
def test_networks_of_ipv4(network: str) -> None:
    first, last = ends(network)
    for number in (first, last, (first + last) // 2):
        assert not is_public(ipaddress.IPv4Address(number))
        assert not AllowedHosts().permits("a", ipaddress.IPv4Address(number))
        for wrap in WRAPPED.values():
            assert not is_public(ipaddress.IPv6Address(wrap(number)))
    for number in (first - 1, last + 1):
        if 0 <= number < 1 << 32:
            public = not is_special(number, IPV4)
            assert is_public(ipaddress.IPv4Address(number)) is public
            for wrap in WRAPPED.values():
                assert is_public(ipaddress.IPv6Address(wrap(number))) is public


@pytest.mark.parametrize("network", IPV6)
def test_networks_of_ipv6(network: str) -> None:
    first, last = ends(network)
    for number in (first, last, (first + last) // 2):
        assert not is_public(ipaddress.IPv6Address(number))
        assert not AllowedHosts().permits("a", ipaddress.IPv6Address(number))


@pytest.mark.parametrize("network", ["2001:db8::/32", "2620:4f:8000::/48"])
def test_just_outside_networks_of_ipv6(network: str) -> None:
    first, last = ends(network)
    assert is_public(ipaddress.IPv6Address(first - 1))
    assert is_public(ipaddress.IPv6Address(last + 1))


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ("2001:200::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2000::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("3fff:1000::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::"),
        ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::"),
    ],
)
def test_where_unicast_begins_and_ends(outside: str, inside: str) -> None:
    assert is_public(ipaddress.IPv6Address(outside))
    assert not is_public(ipaddress.IPv6Address(inside))


def test_an_address_inside_another_is_allowed_as_itself() -> None:
    allowed = AllowedHosts(["10.0.0.0/8"])
    for wrap in WRAPPED.values():
        assert allowed.permits("a", ipaddress.IPv6Address(wrap(0x0A000001)))
        assert not allowed.permits("a", ipaddress.IPv6Address(wrap(0x7F000001)))
