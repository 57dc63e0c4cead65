"""Runs an application in this process, behind the server's own HTTP protocol or uvicorn's."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from gateway.server.http_protocol import HttpProtocol
from tests.conftest import free_port


@contextmanager
def serving_in_a_thread(
    app: ASGIApp,
    lifespan: Literal["on", "off"] = "on",
    http: type[HttpProtocol] | Literal["httptools"] = HttpProtocol,
) -> Iterator[int]:
    """Serve an application from a thread.

    Args:
        app: The application.
        lifespan: "off" if the application has no lifespan.
        http: Implementation of the HTTP protocol.

    Yields:
        The port.
    """
    port = free_port()
    config = uvicorn.Config(app, port=port, http=http, log_config=None, access_log=False, lifespan=lifespan)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()
