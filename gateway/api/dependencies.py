"""Whether a request may change models: the dependency of every route that does."""

import ipaddress
from urllib.parse import urlsplit

from fastapi import Depends, Request

from gateway.api.services import Services
from gateway.errors import Forbidden, Unauthorized


async def _require(request: Request) -> None:
    """Let administrators pass.

    Raises:
        Unauthorized: keys are asked for, and the request has none.
        Forbidden: its key is for embedding only; or it is open to all, and a web page asks from elsewhere.
    """
    caller = request.scope["caller"]
    if not caller.may_administer:
        if caller.key:
            raise Forbidden("this key is for embedding; changing models needs one of ADMIN_API_KEYS")
        raise Unauthorized("send a key that may change models as 'Authorization: Bearer KEY'")
    # A browser sends a page's POST to any address that it can reach, this machine's own among them, and asks
    # first only for what a form could not send. A key would not be in it; without keys this is all there is.
    origin = request.headers.get("origin")
    if origin is not None and not caller.key and not _is_own(origin, request):
        raise Forbidden(
            "web pages of other origins may not change models; the operator can name them in CORS_ORIGINS, "
            "or set API_KEYS"
        )


def _is_own(origin: str, request: Request) -> bool:
    """Whether a page comes from this server, such as /docs, or from where the operator has allowed."""
    allowed = request.app.state.cors_origins
    if origin in allowed or "*" in allowed:
        return True
    host = urlsplit(origin).hostname or ""
    # By a name, it could be one that was made to lead here after its page had come from elsewhere.
    return origin.partition("://")[2] == request.headers.get("host") and (
        host == "localhost" or _is_address(host)
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


ADMINISTRATION = [Depends(_require)]
"""Dependencies of a route that changes models."""


def services(request: Request) -> Services:
    """What the application was built of."""
    found: Services = request.app.state.services
    return found
