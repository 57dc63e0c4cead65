"""What is asked of the server beside the load: a first answer, the model, Triton's statistics."""

import http.client
import json
import math
from dataclasses import dataclass
from typing import Any

from benchmarks.loadtest.requests import body, headers
from benchmarks.loadtest.settings import BenchmarkError, Settings
from benchmarks.loadtest.texts import BuiltInTexts

LOAD_TIMEOUT = 3600.0


@dataclass(frozen=True)
class Counts:
    """Triton's counters of one model, over all its versions."""

    cache_hits: int
    cache_misses: int
    rows: int
    executions: int

    def since(self, earlier: "Counts") -> "Counts":
        """What was counted between the two."""
        return Counts(
            self.cache_hits - earlier.cache_hits,
            self.cache_misses - earlier.cache_misses,
            self.rows - earlier.rows,
            self.executions - earlier.executions,
        )


class Server:
    """The server under test, spoken to in the plain way."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self) -> int:
        """Look at one whole answer, loading the model where it is not loaded: the length of a vector.

        Raises:
            BenchmarkError: the server does not answer, or not with one finite vector per text.
        """
        made = BuiltInTexts("glosses", self._settings.seed + 1)
        batch = [made.text(serial) for serial in range(self._settings.texts_per_request)]
        request = body(self._settings, batch)
        status, answer = self._ask("POST", self._settings.route, request, self._settings.timeout)
        if status == 404:
            self._load()
            status, answer = self._ask("POST", self._settings.route, request, self._settings.timeout)
        if status != 200:
            raise BenchmarkError(f"{self._settings.route} answers {status}: {_text(answer)}")
        return _length_of_vectors(answer, len(batch))

    def counts(self) -> Counts | None:
        """The model's counters; None where the server does not tell."""
        try:
            status, answer = self._ask("GET", "/metrics", None, self._settings.timeout)
        except BenchmarkError:
            return None
        if status != 200:
            return None
        served = self._settings.model.replace("/", "_")
        try:
            versions = [model for model in json.loads(answer)["model_stats"] if model["name"] == served]
            return Counts(
                sum(version["inference_stats"]["cache_hit"]["count"] for version in versions),
                sum(version["inference_stats"]["cache_miss"]["count"] for version in versions),
                sum(version["inference_count"] for version in versions),
                sum(version["execution_count"] for version in versions),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def version(self) -> str | None:
        """Title and version, as the server's own documentation tells them."""
        try:
            status, answer = self._ask("GET", "/openapi.json", None, self._settings.timeout)
            info = json.loads(answer)["info"] if status == 200 else {}
            return f"{info['title']} {info['version']}"
        except (BenchmarkError, ValueError, KeyError, TypeError):
            return None

    def _load(self) -> None:
        request = json.dumps({"model_name": self._settings.model}).encode()
        status, answer = self._ask("POST", "/load_sentence_transformer_model", request, LOAD_TIMEOUT)
        if status != 200:
            raise BenchmarkError(f"{self._settings.model} cannot be loaded, {status}: {_text(answer)}")

    def _ask(self, method: str, path: str, content: bytes | None, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._settings.address, timeout=timeout)
        try:
            connection.request(method, path, body=content, headers=headers(self._settings))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchmarkError(f"{self._settings.url} does not answer: {error}") from error
        finally:
            connection.close()


def _text(answer: bytes) -> str:
    return answer[:300].decode(errors="replace")


def _length_of_vectors(answer: bytes, number: int) -> int:
    try:
        fields: dict[str, Any] = json.loads(answer)
        vectors: list[list[float]] = fields["text_embeddings" if "text_embeddings" in fields else "embedding"]
        whole = isinstance(fields["processingTimeMs"], int | float) and len(vectors) == number
        finite = all(math.isfinite(value) for vector in vectors for value in vector)
        lengths = {len(vector) for vector in vectors}
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"the answer is not as documented: {_text(answer)}") from error
    if not whole or not finite or len(lengths) != 1 or 0 in lengths:
        raise BenchmarkError(f"the answer does not hold one finite vector per text: {_text(answer)}")
    return lengths.pop()
