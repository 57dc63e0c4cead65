"""Creates the ASGI application from its routers, middleware and lifespan."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway import __version__
from gateway.api import openapi
from gateway.api.dialects import ingrain, openai, predict, rerank, tei, weaviate
from gateway.api.error_responses import install
from gateway.api.native import router
from gateway.api.responses import DTYPE_HEADER, SHAPE_HEADER
from gateway.lifespan import running
from gateway.middleware.access import AccessMiddleware, Keys
from gateway.middleware.fast_path import FastPath
from gateway.middleware.rate_limit import RateLimit
from gateway.middleware.request_context import REQUEST_ID_HEADER, RequestContext
from gateway.middleware.tracing import with_tracing
from gateway.server.exposure import warn_when_open
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from triton_models.server.embedded import state_directory

COLLECT_AFTER = 10_000
"""New objects that start a garbage collection; hundreds of concurrent requests hold fewer."""


def create_app(settings: Settings) -> FastAPI:
    """Create the application; its lifespan starts and ends all other parts."""
    embedded = settings.triton_grpc_address is None
    shutdown = Shutdown(
        state_directory(settings.model_repository) if embedded else None,
        timeout=settings.shutdown_timeout,
        delay=settings.shutdown_delay,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, shutdown) as services:
            app.state.services = services
            collect_less()
            warn_when_open(settings, shutdown.server)
            yield

    # FastAPIOffline serves the scripts of /docs itself, so the page needs no other host.
    app = FastAPIOffline(
        title="Embedding server",
        version=__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # FastAPI's own telemetry would send paths, queries and messages of exceptions.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    # A route of `tei` takes any path below a model, so those of `rerank` and `predict` go before it.
    dialects = (openai, rerank, predict, tei, weaviate, ingrain)
    for one in (router, *(dialect.router for dialect in dialects)):
        app.include_router(one)
    install(app)
    openapi.install(app)
    app.state.cors_origins = settings.cors_origins
    app.middleware_stack = with_tracing(around(FastPath(app.build_middleware_stack()), settings, shutdown))
    return app


def around(inner: ASGIApp, settings: Settings, shutdown: Shutdown) -> ASGIApp:
    """Wrap an application in the layers that run before routing.

    They are outermost; `add_middleware` would put three of FastAPI's layers around them.
    """
    rate = None if settings.rate_limit is None else RateLimit(settings.rate_limit)
    keys = Keys(settings.api_keys, settings.admin_api_keys)
    guarded: ASGIApp = AccessMiddleware(inner, keys, rate, settings.max_body_bytes)
    if settings.cors_origins:
        # Outside the key check: a browser's preflight request has no key, and pages must see refusals.
        guarded = CORSMiddleware(
            guarded,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=(REQUEST_ID_HEADER.decode(), "Retry-After", SHAPE_HEADER, DTYPE_HEADER),
        )
    return RequestContext(shutdown.around(guarded))


def collect_less() -> None:
    """Spare requests most of the garbage collection; call this once everything is started.

    A request leaves almost no reference cycles. At the default threshold, the objects of concurrent requests
    would still start one collection after another, and a full one walks through everything imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 10)
