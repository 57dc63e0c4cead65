"""The options of `benchmark.py` as one value. This module imports none of its siblings."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_URL = "http://127.0.0.1:8686"
ROUTES = ("/infer", "/infer_text", "/infer_image")
INPUTS = ("text", "image", "both")
KINDS = ("glosses", "definitions", "passages", "captions")
ARRIVALS = ("poisson", "uniform")


class BenchmarkError(Exception):
    """The load test cannot be run, or its server cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Settings:
    """The options. Times are in seconds and rates in requests per second; None means that one is not set."""

    url: str = DEFAULT_URL
    model: str = DEFAULT_MODEL
    pretrained: str | None = None
    route: str = "/infer"
    input: str = "text"
    connections: int = 500
    requests: int = 20
    duration: float | None = None
    rate: float | None = None
    arrivals: str = "poisson"
    texts_per_request: int = 1
    texts: str = "glosses"
    text_file: Path | None = None
    images_per_request: int = 1
    image_dir: Path | None = None
    distinct: int | None = None
    warmup: int = 200
    processes: int = 1
    seed: int = 0
    timeout: float = 120.0
    api_key: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the server.

        Raises:
            BenchmarkError: The URL is not plain http with a host.
        """
        try:
            parts = urlsplit(self.url)
            port = parts.port or 80
        except ValueError as error:
            raise BenchmarkError(f"--url {self.url}: {error}") from error
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise BenchmarkError(f"--url {self.url}: must be http://HOST:PORT")
        return parts.hostname, port

    @property
    def texts_sent(self) -> int:
        """The number of texts in each request."""
        return 0 if self.input == "image" else self.texts_per_request

    @property
    def images_sent(self) -> int:
        """The number of images in each request."""
        return 0 if self.input == "text" else self.images_per_request

    @property
    def named(self) -> dict[str, str]:
        """The fields of a body that name the model."""
        tag = {} if self.pretrained is None else {"pretrained": self.pretrained}
        return {"model_name": self.model, **tag}

    @property
    def total_requests(self) -> int | None:
        """The number of requests to measure; None if only the duration ends the run."""
        if self.rate is not None and self.duration is not None:
            return max(1, round(self.rate * self.duration))
        return None if self.duration is not None else self.connections * self.requests

    def share(self, total: int, process: int) -> int:
        """Return one process's part of `total`."""
        return share(total, self.processes, process)

    def shown(self) -> dict[str, Any]:
        """Return the settings for the report, without the API key."""
        return {**asdict(self), "api_key": self.api_key is not None}


def share(total: int, parts: int, part: int) -> int:
    """Return the size of one of nearly equal parts of `total`, which count from 0."""
    return total // parts + (part < total % parts)
