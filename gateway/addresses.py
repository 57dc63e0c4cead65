"""Which addresses images may be fetched from.

Source: IANA's special-purpose address registries, by way of the standard library's `ipaddress`.
"""

import ipaddress
import re
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_OF_THE_NET = frozenset({ipaddress.IPv4Address("168.63.129.16")})
"""Public by its number, but inside every machine of a cloud: Azure's metadata and control address."""


class AllowedHosts:
    """Public addresses, and what the operator allows besides.

    entries: host names, addresses, and networks such as `10.0.0.0/8`.

    Raises:
        ValueError: an entry is none of these.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if not _HOST.fullmatch(entry) or entry.replace(".", "").isdigit():
                    raise ValueError(f"{entry} is no host name, address or network") from None
                self._names.add(entry.lower())

    def permits(self, host: str, address: Address) -> bool:
        """Whether a connection to `address`, found for `host`, may be made."""
        if host.lower().rstrip(".") in self._names:
            return True
        plain = embedded(address) or address
        return is_public(address) or any(
            candidate in network for network in self._networks for candidate in (address, plain)
        )


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet, whichever way it is written."""
    inner = embedded(address)
    if inner is not None:
        return is_public(inner)
    if address in _NOT_OF_THE_NET or address.is_multicast or not address.is_global:
        return False
    return isinstance(address, ipaddress.IPv4Address) or address in _UNICAST


def embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, by one of the ways of writing one in the other."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
