"""The HTTP server: joins the parts.

`python app.py` listens on HOST and PORT and takes uvicorn's options besides, such as `--ssl-keyfile`;
`uvicorn app:app --host 127.0.0.1 --port 8686` works too.
"""

import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway import errors, openapi, tracing
from gateway.access import Guard, Keys
from gateway.answers import DTYPE_HEADER, SHAPE_HEADER
from gateway.credentials import keep_others_out, take
from gateway.dialects import openai, original, tei, weaviate
from gateway.edge import REQUEST_ID_HEADER, Edge
from gateway.exposure import warn_when_open
from gateway.hot import Hot
from gateway.logs import set_up_logging
from gateway.rates import RateLimit
from gateway.routes import router
from gateway.services import running
from gateway.settings import Settings, SettingsError, read_settings
from gateway.shedding import STATE, Shedder
from gateway.shutdown import Shutdown
from triton_models.errors import EmbeddedTritonError
from triton_models.server.binary import engine_problem
from triton_models.server.embedded import check_embedded, state_directory

# One text is tokenised in microseconds: handing it to a pool of threads costs more than it gives,
# and that pool would take the cores from the model.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
        # Its own telemetry would send paths, queries and messages of exceptions (gateway/tracing.py).
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for one in (router, openai.router, tei.router, weaviate.router, original.router):
        app.include_router(one)
    errors.install(app)
    openapi.install(app)
    app.state.cors_origins = settings.cors_origins
    app.middleware_stack = tracing.traced(around(Hot(app.build_middleware_stack()), settings, shutdown))
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


def check_machine(settings: Settings) -> None:
    """Say at once, in one line, when the engine or the embedded Triton cannot run here as it is set.

    Raises:
        SettingsError: with what to change.
    """
    # The only ones that not every machine has; looking takes a second.
    if "bf16" in settings.engine and (problem := engine_problem(settings.engine)) is not None:
        raise SettingsError(f"ENGINE: {problem}")
    if settings.triton_grpc_url is None:
        try:
            check_embedded(settings.model_repository, settings.response_cache)
        except EmbeddedTritonError as error:
            raise SettingsError(str(error)) from error


def start_settings() -> Settings:
    """The operator's settings; no process that is started, or runs beside this one, finds the keys then."""
    settings = read_settings(take())
    if settings.trust_remote_code:
        # A model's own code runs in the converter, as this user.
        keep_others_out()
    return settings


def __getattr__(name: str) -> FastAPI:
    """`app` is made when it is asked for: importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    settings = start_settings()
    check_machine(settings)
    set_up_logging(settings)
    globals()["app"] = create_app(settings)
    made: FastAPI = globals()["app"]
    return made


def main() -> None:
    """Serve on HOST and PORT; uvicorn's own options and variables, such as WEB_CONCURRENCY, hold as well."""
    settings = start_settings()
    set_up_logging(settings)
    own = {
        "--host": settings.host,
        "--port": str(settings.port),
        "--log-level": settings.log_level,
        "--http": "gateway.connections:Connection",
        "--ws": "none",
    }
    # /metrics counts the requests; a line for each would cost more than answering from the cache.
    arguments = [
        "app:app",
        "--no-access-log",
        "--no-server-header",
        # Longer than clients and load balancers keep an idle connection: who closes first must not be the one
        # to whom a request is on its way.
        "--timeout-keep-alive",
        "75",
        *(part for option in own.items() for part in option),
    ]
    uvicorn.main([*arguments, *sys.argv[1:]], prog_name="app.py")


if __name__ == "__main__":
    main()
