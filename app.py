"""The HTTP server: joins the parts.

`python app.py` listens on HOST and PORT and takes uvicorn's options besides, such as `--ssl-keyfile`;
`uvicorn app:app --host 127.0.0.1 --port 8686` works too.
"""

import os
import sys

import uvicorn
from fastapi import FastAPI

from gateway.application import create_app
from gateway.credentials import keep_others_out, take
from gateway.settings import Settings, SettingsError, read_settings
from gateway.telemetry.logs import set_up_logging
from triton_models.client.errors import EmbeddedTritonError
from triton_models.server.binary import engine_problem
from triton_models.server.embedded import check_embedded

# One text is tokenised in microseconds: handing it to a pool of threads costs more than it gives,
# and that pool would take the cores from the model.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
        "--http": "gateway.server.http_protocol:Connection",
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
