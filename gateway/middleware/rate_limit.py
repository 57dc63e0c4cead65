"""How many requests a second one caller may send: a token bucket each.

Source of the algorithm: the generic cell rate algorithm (ITU-T I.371), a bucket kept as one point in time.
"""

import ipaddress

_PRUNE_FROM = 10_000
"""Callers kept until those whose buckets are full again are let go."""


class RateLimit:
    """Of one process. per_second: requests; as many, and at least one, may come at once."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._interval = 1 / per_second
        self._ahead = max(0.0, 1 - self._interval)
        self._full_at: dict[bytes | str, float] = {}
        self._prune_from = _PRUNE_FROM

    def take(self, caller: bytes | str, now: float) -> float:
        """Count one request of `caller`: 0 where it may come in, else the seconds until one may.

        now: of a clock that never goes back, in seconds.
        """
        full_at = max(self._full_at.get(caller, now), now)
        # The millionth part of a second, against rounding.
        if (wait := full_at - now - self._ahead) > 1e-6:
            return wait
        self._full_at[caller] = full_at + self._interval
        if len(self._full_at) > self._prune_from:
            self._full_at = {who: at for who, at in self._full_at.items() if at > now}
            self._prune_from = max(_PRUNE_FROM, 2 * len(self._full_at))
        return 0.0


def network_of(client: tuple[str, int] | None) -> str:
    """What counts as one caller without a key: an IPv4 address, or the first half of an IPv6 one."""
    if client is None:
        return ""
    host = client[0]
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))
