"""Entry point of the gateway: reads the settings and runs the HTTP server.

`python app.py` listens on HOST and PORT, and accepts uvicorn's options, such as `--ssl-keyfile`.
`uvicorn app:app --host 127.0.0.1 --port 8686` works too.
"""

import os
import sys

import uvicorn
from fastapi import FastAPI

from gateway.application import create_app
from gateway.credentials import keep_others_out, take
from gateway.settings import Settings, SettingsError, read_settings, warn_of_old_names
from gateway.telemetry.logs import set_up_logging
from triton_models.client.errors import EmbeddedTritonError
from triton_models.server.binary import engine_problem
from triton_models.server.embedded import check_embedded

# Tokenising one text takes microseconds. A thread pool would cost more time than it saves, and would take
# the cores from the model.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def check_machine(settings: Settings) -> None:
    """Check that this machine can run the engine and the embedded Triton as configured.

    Raises:
        SettingsError: One line says what to change.
    """
    # Only the bf16 engines are missing on some machines; the check takes a second.
    if "bf16" in settings.engine and (problem := engine_problem(settings.engine)) is not None:
        raise SettingsError(f"ENGINE: {problem}")
    if settings.triton_grpc_address is None:
        try:
            check_embedded(settings.model_repository, settings.response_cache)
        except EmbeddedTritonError as error:
            raise SettingsError(str(error)) from error


def start_settings() -> Settings:
    """Read the settings and take the keys out of the environment, where other processes could read them."""
    settings = read_settings(take())
    if settings.trust_remote_code:
        # A model's own code runs in the converter, as this user.
        keep_others_out()
    return settings


def __getattr__(name: str) -> FastAPI:
    """Create `app` at its first use, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    settings = start_settings()
    check_machine(settings)
    set_up_logging(settings)
    warn_of_old_names()
    globals()["app"] = create_app(settings)
    made: FastAPI = globals()["app"]
    return made


def main() -> None:
    """Serve on HOST and PORT; uvicorn's own options and variables, such as WEB_CONCURRENCY, also apply."""
    settings = start_settings()
    set_up_logging(settings)
    own = {
        "--host": settings.host,
        "--port": str(settings.port),
        "--log-level": settings.log_level,
        "--http": "gateway.server.http_protocol:HttpProtocol",
        "--ws": "none",
    }
    # /metrics counts the requests; a log line for each would cost more than an answer from the cache.
    arguments = [
        "app:app",
        "--no-access-log",
        "--no-server-header",
        # Longer than clients and load balancers keep an idle connection: the server must not close a
        # connection on which a request is already on its way.
        "--timeout-keep-alive",
        "75",
        *(part for option in own.items() for part in option),
    ]
    uvicorn.main([*arguments, *sys.argv[1:]], prog_name="app.py")


if __name__ == "__main__":
    main()
