"""Warns when the server accepts requests without keys from other machines."""

import asyncio
import ipaddress
import logging

import uvicorn

from gateway.settings import Settings

LISTENING_SECONDS = 1.0
"""Seconds after the start of the application by which uvicorn is listening."""

log = logging.getLogger(__name__)


def warn_when_open(settings: Settings, server: uvicorn.Server | None) -> None:
    """Log a warning soon if the server listens beyond the loopback interface without keys.

    The sockets decide, not HOST: `uvicorn app:app --host` and a supervisor's socket do not set HOST.

    Args:
        settings: Settings of this process.
        server: The server that runs the application; None if that is not uvicorn.
    """
    if not settings.api_keys and server is not None:
        asyncio.get_running_loop().call_later(LISTENING_SECONDS, _warn, settings, server)


def _warn(settings: Settings, server: uvicorn.Server) -> None:
    where = sorted(address for address in listening_addresses(server) if not _is_loopback(address))
    if not where:
        return
    may = "embed with" if settings.admin_api_keys else "use, load and delete"
    log.warning(
        "NO KEY IS ASKED FOR: whoever reaches this machine on %s may %s the models; "
        "set API_KEYS (and ADMIN_API_KEYS), or listen on 127.0.0.1",
        ", ".join(where),
        may,
    )


def listening_addresses(server: uvicorn.Server) -> set[str]:
    """Return the IP addresses on which the server accepts connections."""
    names = [one.getsockname() for listener in getattr(server, "servers", ()) for one in listener.sockets]
    # Not by the family: uvicorn takes a descriptor that it is given for a UNIX socket, whatever it is.
    return {str(name[0]) for name in names if isinstance(name, tuple)}


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
