"""Says so when anybody who reaches this machine may use the server."""

import asyncio
import ipaddress
import logging
import os
import socket
import stat
from contextlib import suppress

from gateway.settings import Settings

LISTENING_SECONDS = 1.0
"""After its start, when a server listens."""

log = logging.getLogger(__name__)


def warn_when_open(settings: Settings) -> None:
    """Warn soon, loudly, where this process listens beyond the loopback interface without keys.

    Looks at the sockets, not at HOST, which `uvicorn app:app --host` and a supervisor's socket do not set.
    """
    if not settings.api_keys:
        asyncio.get_running_loop().call_later(LISTENING_SECONDS, _warn, settings)


def _warn(settings: Settings) -> None:
    where = sorted(address for address in listening_addresses() if not _is_loopback(address))
    if not where:
        return
    may = "embed with" if settings.admin_api_keys else "use, load and delete"
    log.warning(
        "NO KEY IS ASKED FOR: whoever reaches this machine on %s may %s the models; "
        "set API_KEYS (and ADMIN_API_KEYS), or listen on 127.0.0.1",
        ", ".join(where),
        may,
    )


def listening_addresses() -> set[str]:
    """IP addresses on which this process accepts connections."""
    found = set()
    for number in os.listdir("/dev/fd"):
        # The descriptor of the directory itself is closed by now.
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(number)).st_mode):
                with socket.socket(fileno=os.dup(int(number))) as one:
                    if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(
                        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                    ):
                        found.add(str(one.getsockname()[0]))
    return found


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
