"""The addresses that images may be fetched from.

The networks are listed here because the standard library's notion of a global address (`ipaddress`) depends
on the version of Python.
"""

import ipaddress
import re
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        # This network, private use, shared address space, loopback, link local, private use.
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        # IETF protocol assignments, documentation, AS112, AMT, 6to4 relays, private use, AS112.
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
        *("192.168.0.0/16", "192.175.48.0/24"),
        # Benchmarking, documentation twice, multicast, reserved with limited broadcast.
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Azure's metadata and control address: in a public range, but internal to each machine of that cloud.
        "168.63.129.16/32",
        # Inside 2000::/3 (`is_public` refuses all other IPv6): IETF protocol assignments (benchmarking, AMT,
        # AS112, ORCHID and DRIP among them), documentation twice, AS112.
        *("2001::/23", "2001:db8::/32", "3fff::/20", "2620:4f:8000::/48"),
    )
)
"""Networks without hosts of the public Internet. Those that IANA calls globally reachable have no web server.

Sources, as of 2025-10-09: www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry,
and ipv4-address-space for multicast. In ::ffff:0:0/96, 64:ff9b::/96 (NAT64), 2001::/32 (Teredo) and 2002::/16
(6to4), the embedded IPv4 address decides.
"""


class AllowedHosts:
    """The hosts that may be fetched from: all public addresses, and those that the operator allows.

    Args:
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
        """Return whether a connection to `address` is allowed, to which the name `host` resolved."""
        if host.lower().rstrip(".") in self._names:
            return True
        plain = embedded(address) or address
        return is_public(address) or any(
            candidate in network for network in self._networks for candidate in (address, plain)
        )


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public Internet; an embedded IPv4 address decides."""
    inner = embedded(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return not any(address in network for network in _SPECIAL)


def embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address inside an IPv6 address (mapped, 6to4, Teredo or NAT64), or None."""
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
