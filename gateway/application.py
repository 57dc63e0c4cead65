"""TODO."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.api import openapi
from gateway.api.dialects import ingrain, openai, tei, weaviate
from gateway.api.error_responses import install
from gateway.api.native import router
from gateway.api.responses import DTYPE_HEADER, SHAPE_HEADER
from gateway.lifespan import running
from gateway.middleware.access import Guard, Keys
from gateway.middleware.fast_path import Hot
from gateway.middleware.rate_limit import RateLimit
from gateway.middleware.request_context import REQUEST_ID_HEADER, Edge
from gateway.middleware.tracing import traced
from gateway.server.exposure import warn_when_open
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from gateway.shedding import STATE, Shedder
from gateway.telemetry import tracing
from triton_models.server.embedded import state_directory

COLLECT_AFTER = 10_000
"""New objects that start a garbage collection: more than hundreds of requests under way hold."""


def create_app(settings: Settings) -> FastAPI:
    """The application; what it starts lives as long as its lifespan."""
    embedded = settings.triton_grpc_url is None
    shutdown = Shutdown(
        state_directory(settings.model_repository) if embedded else None,
        timeout=settings.shutdown_timeout,
        delay=settings.shutdown_delay,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Shedder | None]]:
        async with running(settings, shutdown) as services:
            app.state.services = services
            collect_less()
            warn_when_open(settings)
            # A refusal by it is in no trace and no line of the log.
            sheds = not tracing.is_on() and settings.log_level != "debug"
            shedder = Shedder(services.embedder, keys(settings), shutdown) if sheds else None
            yield {STATE: shedder}

    # With the scripts of /docs in its package: the page needs no other host.
    app = FastAPIOffline(
        title="Embedding server",
        version="0.1.0",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # Its own telemetry would send paths, queries and messages of exceptions (gateway/telemetry/tracing.py).
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for one in (router, openai.router, tei.router, weaviate.router, ingrain.router):
        app.include_router(one)
    install(app)
    openapi.install(app)
    app.state.cors_origins = settings.cors_origins
    app.middleware_stack = traced(around(Hot(app.build_middleware_stack()), settings, shutdown))
    return app


def keys(settings: Settings) -> Keys:
    """Those that the operator gave."""
    return Keys(settings.api_keys, settings.admin_api_keys)


def around(inner: ASGIApp, settings: Settings, shutdown: Shutdown) -> ASGIApp:
    """The layers before routing: outermost, where add_middleware would put three of FastAPI's around them."""
    rate = None if settings.rate_limit is None else RateLimit(settings.rate_limit)
    guarded: ASGIApp = Guard(inner, keys(settings), rate, settings.max_body_bytes)
    if settings.cors_origins:
        # Around the keys: a browser asks without one whether it may send one, and must be let read refusals.
        guarded = CORSMiddleware(
            guarded,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=(REQUEST_ID_HEADER.decode(), "Retry-After", SHAPE_HEADER, DTYPE_HEADER),
        )
    return Edge(shutdown.around(guarded))


def collect_less() -> None:
    """Spare requests most of the garbage collection; call it once all is started.

    A request leaves next to no cycles, but at the default threshold the objects of those under way start
    collection after collection, each full one a walk through all that was imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 10)
