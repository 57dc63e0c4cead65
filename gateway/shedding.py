"""Refuses requests to a model with a full queue before anything is made of them: no task, no layers.

In an overload most requests are refused, and the CPU that this takes is that of the model, or of the answers
to those that were accepted. What is decided here would be decided by `admission.py` too, later and at more
than twice the cost; whatever is not a plain request goes that way.
"""

import time

from starlette.responses import Response

from gateway.api.error_responses import error_response
from gateway.api.request_body import parse
from gateway.errors import GatewayError
from gateway.inference.text import TextEmbedder
from gateway.middleware.access import Keys
from gateway.middleware.fast_path import ROUTES, is_small
from gateway.middleware.request_context import REQUEST_ID_HEADER, id_of
from gateway.server.shutdown import Shutdown
from gateway.telemetry.metrics import count_request
from triton_models.contract.names import InvalidModelName

STATE = "shedder"
"""Where `connections.py` finds it in the state of the application's lifespan."""

Headers = list[tuple[bytes, bytes]]

_ROUTES = {path.encode(): route for path, route in ROUTES.items()}


class Shedder:
    """What a connection asks of each request while there is an overload."""

    def __init__(self, embedder: TextEmbedder, keys: Keys, shutdown: Shutdown) -> None:
        self._embedder = embedder
        self._keys = keys
        self._shutdown = shutdown

    def concerns(self, url: bytes, headers: Headers) -> bool:
        """Whether a POST may be refused here: its body is needed to know."""
        return self._embedder.is_overloaded and url in _ROUTES and is_small(headers)

    def refusal(self, url: bytes, headers: Headers, body: bytes) -> Response | None:
        """The answer to a request that this concerns; None where it is to be let in.

        It may come ahead of another error that the request would have met, and RATE_LIMIT does not count it.
        """
        start = time.perf_counter()
        if self._shutdown.begun or not self._may_ask(headers):
            return None
        route = _ROUTES[url]
        try:
            asked = route.asked(parse(route.schema, body))
            refused = None if asked is None else self._embedder.early_refusal(*asked)
        except (GatewayError, InvalidModelName):
            # It is told so once it is in.
            return None
        if refused is None:
            return None
        response = error_response(refused, {"path": route.path})
        response.raw_headers.append((REQUEST_ID_HEADER, id_of(dict(headers)).encode()))
        count_request(route.path, response.status_code, time.perf_counter() - start)
        return response

    def _may_ask(self, headers: Headers) -> bool:
        """Whether the caller needs no key or has one, and is no web page, whose answers CORS adds to."""
        authorization = b""
        for name, value in headers:
            if name == b"origin":
                return False
            if name == b"authorization":
                authorization = value
        return self._keys.let_in(self._keys.caller(authorization))
