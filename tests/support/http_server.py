"""An application behind the server's own HTTP connections, or others, in this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from gateway.server.http_protocol import Connection
from tests.conftest import free_port


@contextmanager
def serving_in_a_thread(
    app: ASGIApp,
    lifespan: Literal["on", "off"] = "on",
    http: type[Connection] | Literal["httptools"] = Connection,
) -> Iterator[int]:
    """The port. lifespan: whether the application has one. http: another server of connections."""
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
