"""The HTTP server: joins the parts.

`python app.py` listens on HOST and PORT; `uvicorn app:app --host 127.0.0.1 --port 8686` works too.
"""

import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from gateway import errors, openapi
from gateway.dialects import openai, original, tei, weaviate
from gateway.edge import Edge
from gateway.hot import Hot
from gateway.routes import router
from gateway.services import running
from gateway.settings import Settings, SettingsError, read_settings
from triton_models.errors import EmbeddedTritonError
from triton_models.server.embedded import check_embedded

# One text is tokenised in microseconds: handing it to a pool of threads costs more than it gives,
# and that pool would take the cores from the model.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

COLLECT_AFTER = 10_000
"""New objects that start a garbage collection: more than hundreds of requests under way hold."""


def create_app(settings: Settings) -> FastAPI:
    """The application; what it starts lives as long as its lifespan."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings) as services:
            app.state.services = services
            collect_less()
            yield

    # With the scripts of /docs in its package: the page needs no other host.
    app = FastAPIOffline(
        title="Embedding server",
        version="0.1.0",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    for one in (router, openai.router, tei.router, weaviate.router, original.router):
        app.include_router(one)
    errors.install(app)
    openapi.install(app)
    # Outermost, where add_middleware would put three layers of FastAPI's around them.
    inner = Hot(app.build_middleware_stack())
    app.middleware_stack = Edge(inner, max_body_bytes=settings.max_body_bytes, api_keys=settings.api_keys)
    return app


def collect_less() -> None:
    """Spare requests most of the garbage collection; call it once all is started.

    A request leaves next to no cycles, but at the default threshold the objects of those under way start
    collection after collection, each full one a walk through all that was imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 10)


def set_up_logging(level: str) -> None:
    """Log to standard error, one line an event."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # Its lines say what the access log says.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def check_triton(settings: Settings) -> None:
    """Say at once, in one line, when the embedded Triton cannot run here as it is set.

    Raises:
        SettingsError: with what to change.
    """
    if settings.triton_grpc_url is None:
        try:
            check_embedded(settings.model_repository, settings.response_cache)
        except EmbeddedTritonError as error:
            raise SettingsError(str(error)) from error


def __getattr__(name: str) -> FastAPI:
    """`app` is made when it is asked for: importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    settings = read_settings()
    check_triton(settings)
    set_up_logging(settings.log_level)
    globals()["app"] = create_app(settings)
    made: FastAPI = globals()["app"]
    return made


def main() -> None:
    """Serve on HOST and PORT; uvicorn's own variables, such as WEB_CONCURRENCY, hold as well."""
    settings = read_settings()
    uvicorn.run(
        "app:app",
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        # /metrics counts the requests; a line for each would cost more than answering from the cache.
        access_log=settings.log_level == "debug",
    )


if __name__ == "__main__":
    main()
