"""The requests besides the load: a first answer, loading the model, Triton's statistics."""

import http.client
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.loadtest.images import images
from benchmarks.loadtest.requests import body, headers
from benchmarks.loadtest.settings import BenchmarkError, Settings
from benchmarks.loadtest.texts import texts
from triton_models.contract.names import HUB_PREFIX, InvalidModelName, clip_triton_names, triton_name_of

LOAD_TIMEOUT = 3600.0


class Counts(NamedTuple):
    """Triton's counters for one model over all its versions, or for the towers in use of a CLIP model."""

    cache_hits: int
    cache_misses: int
    rows: int
    executions: int

    def since(self, earlier: "Counts") -> "Counts":
        """Return the counts since `earlier`."""
        return Counts(*(now - before for now, before in zip(self, earlier, strict=True)))


class Server:
    """The server under test, asked one request at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self) -> int:
        """Check one answer completely, loading the model if necessary; return the dimension of its vectors.

        Raises:
            BenchmarkError: The server does not answer with one finite vector per input.
        """
        first = replace(
            self._settings, seed=self._settings.seed + 1, text_file=None, image_dir=None, distinct=None
        )
        request = body(first, texts(first, 0), images(first, 0))
        status, answer = self._ask("POST", self._settings.route, request, self._settings.timeout)
        if status == 404:
            self._load()
            status, answer = self._ask("POST", self._settings.route, request, self._settings.timeout)
        if status != 200:
            raise BenchmarkError(f"{self._settings.route} answers {status}: {_text(answer)}")
        return _length_of_vectors(answer, self._settings)

    def counts(self) -> Counts | None:
        """Read the model's counters; None if the server does not show them."""
        try:
            status, answer = self._ask("GET", "/metrics", None, self._settings.timeout)
        except BenchmarkError:
            return None
        if status != 200:
            return None
        try:
            served = self._served()
            versions = [model for model in json.loads(answer)["model_stats"] if model["name"] in served]
            return Counts(
                sum(version["inference_stats"]["cache_hit"]["count"] for version in versions),
                sum(version["inference_stats"]["cache_miss"]["count"] for version in versions),
                sum(version["inference_count"] for version in versions),
                sum(version["execution_count"] for version in versions),
            )
        except (InvalidModelName, ValueError, KeyError, TypeError):
            return None

    def version(self) -> str | None:
        """Return title and version from the server's OpenAPI document, or None if it has none."""
        try:
            status, answer = self._ask("GET", "/openapi.json", None, self._settings.timeout)
            info = json.loads(answer)["info"] if status == 200 else {}
            return f"{info['title']} {info['version']}"
        except (BenchmarkError, ValueError, KeyError, TypeError):
            return None

    @property
    def _is_clip(self) -> bool:
        return self._settings.pretrained is not None or self._settings.model.startswith(HUB_PREFIX)

    def _served(self) -> set[str]:
        """Return the names in Triton of the models in use."""
        settings = self._settings
        if not self._is_clip:
            return {triton_name_of(settings.model)}
        names = clip_triton_names(settings.model, settings.pretrained or "")
        return set([names.text] * bool(settings.texts_sent) + [names.image] * bool(settings.images_sent))

    def _load(self) -> None:
        request = json.dumps(self._settings.named).encode()
        route = "/load_clip_model" if self._is_clip else "/load_sentence_transformer_model"
        status, answer = self._ask("POST", route, request, LOAD_TIMEOUT)
        if status != 200:
            raise BenchmarkError(f"{self._settings.model} cannot be loaded, {status}: {_text(answer)}")

    def _ask(self, method: str, path: str, content: bytes | None, timeout: float) -> tuple[int, bytes]:
        try:
            return ask(self._settings.address, method, path, content, headers(self._settings), timeout)
        except OSError as error:
            raise BenchmarkError(f"{self._settings.url} does not answer: {error}") from error


def ask(
    address: tuple[str, int],
    method: str,
    path: str,
    content: bytes | None,
    headers: Mapping[str, str],
    timeout: float,
) -> tuple[int, bytes]:
    """Send one request over a connection of its own; return the status and the body of the answer.

    Raises:
        OSError: There is no answer within `timeout` seconds, or the answer is not HTTP.
    """
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, body=content, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from error
    finally:
        connection.close()


def _text(answer: bytes) -> str:
    return answer[:300].decode(errors="replace")


def _length_of_vectors(answer: bytes, settings: Settings) -> int:
    wanted = {"text_embeddings": settings.texts_sent, "image_embeddings": settings.images_sent}
    if settings.route != "/infer":
        wanted = {"embedding": settings.texts_sent or settings.images_sent}
    try:
        fields: dict[str, Any] = json.loads(answer)
        vectors: list[list[float]] = [vector for name in wanted for vector in fields[name] or ()]
        counted = all(len(fields[name] or ()) == number for name, number in wanted.items())
        whole = isinstance(fields["processingTimeMs"], int | float) and counted
        finite = all(math.isfinite(value) for vector in vectors for value in vector)
        lengths = {len(vector) for vector in vectors}
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"the answer is not as documented: {_text(answer)}") from error
    if not whole or not finite or len(lengths) != 1 or 0 in lengths:
        raise BenchmarkError(f"the answer does not hold one finite vector per input: {_text(answer)}")
    return lengths.pop()
