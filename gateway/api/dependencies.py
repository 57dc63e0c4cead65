"""Dependencies of routes: the check that a request may change models, and access to the services."""

import ipaddress
from urllib.parse import urlsplit

from fastapi import Depends, Request

from gateway.api.services import Services
from gateway.errors import Forbidden, Unauthorized


async def _require(request: Request) -> None:
    """Let administrators pass.

    Raises:
        Unauthorized: the server requires a key, and the request has none.
        Forbidden: the key is for embedding only. Or the request has no key, and a web page of another origin
            sent it.
    """
    caller = request.scope["caller"]
    if not caller.may_administer:
        if caller.key:
            raise Forbidden("this key is for embedding; changing models needs one of ADMIN_API_KEYS")
        raise Unauthorized("send a key that may change models as 'Authorization: Bearer KEY'")
    # A browser sends a page's POST to any address that it can reach, including this machine. It asks for
    # permission first only if a form could not send the request. Such a POST carries no key, so a server with
    # keys refuses it. Without keys, this check is the only protection.
    origin = request.headers.get("origin")
    if origin is not None and not caller.key and not _is_own(origin, request):
        raise Forbidden(
            "web pages of other origins may not change models; the operator can name them in CORS_ORIGINS, "
            "or set API_KEYS"
        )


def _is_own(origin: str, request: Request) -> bool:
    """Return whether a page comes from this server, such as /docs, or from an origin in CORS_ORIGINS."""
    allowed = request.app.state.cors_origins
    if origin in allowed or "*" in allowed:
        return True
    host = urlsplit(origin).hostname or ""
    # Other host names do not count: one can be pointed to this server after its page came from elsewhere
    # (DNS rebinding).
    return origin.partition("://")[2] == request.headers.get("host") and (
        host == "localhost" or _is_address(host)
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


ADMIN_ONLY = [Depends(_require)]
"""Dependencies of a route that changes models."""


def services(request: Request) -> Services:
    """Return the parts of the application that routes call."""
    found: Services = request.app.state.services
    return found
