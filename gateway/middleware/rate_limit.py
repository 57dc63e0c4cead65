"""The limit on each caller's requests per second: one token bucket per caller.

Source: the generic cell rate algorithm (ITU-T I.371), which stores a bucket as one point in time.
"""

import ipaddress

_PRUNE_FROM = 10_000
"""Number of callers from which those with a full bucket are forgotten."""


class RateLimit:
    """The rate limit of one process.

    Args:
        per_second: requests per second of one caller; also the size of a burst, which is at least 1.
    """

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._interval = 1 / per_second
        self._ahead = max(0.0, 1 - self._interval)
        self._full_at: dict[bytes | str, float] = {}
        self._prune_from = _PRUNE_FROM

    def take(self, caller: bytes | str, now: float) -> float:
        """Count one request of a caller.

        Args:
            caller: the caller's key or network.
            now: seconds of a monotonic clock.

        Returns:
            0 if the request is admitted; else the seconds until one would be.
        """
        full_at = max(self._full_at.get(caller, now), now)
        # One microsecond of tolerance for rounding.
        if (wait := full_at - now - self._ahead) > 1e-6:
            return wait
        self._full_at[caller] = full_at + self._interval
        if len(self._full_at) > self._prune_from:
            self._full_at = {who: at for who, at in self._full_at.items() if at > now}
            self._prune_from = max(_PRUNE_FROM, 2 * len(self._full_at))
        return 0.0


def network_of(client: tuple[str, int] | None) -> str:
    """Return the name of a caller without a key: its IPv4 address, or the /64 network of its IPv6 address."""
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
