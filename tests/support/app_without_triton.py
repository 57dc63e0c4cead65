"""The application without Triton, for tests of everything that happens before a model is called."""

from types import SimpleNamespace

from starlette.testclient import TestClient

from gateway.api.request_body import Bodies
from gateway.application import create_app
from gateway.settings import Settings

ANOTHER = "https://elsewhere.example"
"""Origin of web pages of another server."""


def asking(root_path: str = "", **settings: object) -> TestClient:
    """Return a client of the application with these settings; the lifespan is not started."""
    given = Settings(load_models=(), **settings)  # type: ignore[arg-type]
    app = create_app(given)
    # The reader of bodies needs no start.
    app.state.services = SimpleNamespace(bodies=Bodies(given.max_body_bytes, given.request_timeout))
    return TestClient(app, "http://127.0.0.1:8686", root_path=root_path, raise_server_exceptions=False)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
