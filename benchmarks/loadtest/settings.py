"""What one load test does: the options of `benchmark.py` as one value. Imports nothing of its siblings."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_URL = "http://127.0.0.1:8686"
ROUTES = ("/infer", "/infer_text")
KINDS = ("glosses", "passages")
ARRIVALS = ("poisson", "uniform")


class BenchmarkError(Exception):
    """The load test cannot be run, or its server cannot be used; the text is one line for the user."""


@dataclass(frozen=True)
class Settings:
    """The options; times in seconds, rates in requests a second. None: not asked for."""

    url: str = DEFAULT_URL
    model: str = DEFAULT_MODEL
    route: str = "/infer"
    connections: int = 500
    requests: int = 20
    duration: float | None = None
    rate: float | None = None
    arrivals: str = "poisson"
    texts_per_request: int = 1
    texts: str = "glosses"
    text_file: Path | None = None
    distinct: int | None = None
    warmup: int = 200
    processes: int = 1
    seed: int = 0
    timeout: float = 120.0
    api_key: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server.

        Raises:
            BenchmarkError: the URL is not plain http with a host.
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
    def total_requests(self) -> int | None:
        """How many requests are measured; None where only the duration ends the run."""
        if self.rate is not None and self.duration is not None:
            return max(1, round(self.rate * self.duration))
        return None if self.duration is not None else self.connections * self.requests

    def share(self, total: int, process: int) -> int:
        """The part of `total` that falls to one of the processes."""
        return total // self.processes + (process < total % self.processes)

    def shown(self) -> dict[str, Any]:
        """The settings for the report; the key is not in it."""
        values = asdict(self)
        values["text_file"] = self.text_file and str(self.text_file)
        values["api_key"] = self.api_key is not None
        return values
