"""The requests besides the load: a first answer, loading the model, Triton's statistics."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import httpx
import numpy as np

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
        answer = self._ask("POST", self._settings.route, request)
        if answer.status_code == 404:
            self._load()
            answer = self._ask("POST", self._settings.route, request)
        if answer.status_code != 200:
            raise BenchmarkError(f"{self._settings.route} answers {answer.status_code}: {answer.text[:300]}")
        return _length_of_vectors(answer, self._settings)

    def counts(self) -> Counts | None:
        """Read the model's counters; None if the server does not show them."""
        try:
            served = self._served()
            models = self._ask("GET", "/metrics").json()["model_stats"]
            versions = [model for model in models if model["name"] in served]
            return Counts(
                sum(version["inference_stats"]["cache_hit"]["count"] for version in versions),
                sum(version["inference_stats"]["cache_miss"]["count"] for version in versions),
                sum(version["inference_count"] for version in versions),
                sum(version["execution_count"] for version in versions),
            )
        except (BenchmarkError, InvalidModelName, ValueError, KeyError, TypeError):
            return None

    def version(self) -> str | None:
        """Return title and version from the server's OpenAPI document, or None if it has none."""
        try:
            info = self._ask("GET", "/openapi.json").json()["info"]
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
        answer = self._ask("POST", route, request, LOAD_TIMEOUT)
        if answer.status_code != 200:
            said = f"{answer.status_code}: {answer.text[:300]}"
            raise BenchmarkError(f"{self._settings.model} cannot be loaded, {said}")

    def _ask(
        self, method: str, path: str, content: bytes | None = None, timeout: float | None = None
    ) -> httpx.Response:
        settings = self._settings
        try:
            return ask(
                settings.address, method, path, content, headers(settings), timeout or settings.timeout
            )
        except OSError as error:
            raise BenchmarkError(f"{settings.url} does not answer: {error}") from error


def ask(
    address: tuple[str, int],
    method: str,
    path: str,
    content: bytes | None,
    headers: dict[str, str],
    timeout: float,
) -> httpx.Response:
    """Send one request over a connection of its own, past any proxy; return the answer.

    Raises:
        OSError: There is no answer within `timeout` seconds, or the answer is not HTTP.
    """
    url = httpx.URL(scheme="http", host=address[0], port=address[1], path=path)
    try:
        return httpx.request(method, url, content=content, headers=headers, timeout=timeout, trust_env=False)
    except httpx.HTTPError as error:
        raise ConnectionError(str(error) or repr(error)) from error


def _length_of_vectors(answer: httpx.Response, settings: Settings) -> int:
    wanted = {"text_embeddings": settings.texts_sent, "image_embeddings": settings.images_sent}
    if settings.route != "/infer":
        wanted = {"embedding": settings.texts_sent or settings.images_sent}
    try:
        fields: dict[str, Any] = answer.json()
        timed = isinstance(fields["processingTimeMs"], int | float)
        counted = all(len(fields[name] or ()) == number for name, number in wanted.items())
        vectors = np.array([vector for name in wanted for vector in fields[name] or ()], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"the answer is not as documented: {answer.text[:300]}") from error
    if not timed or not counted or vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise BenchmarkError(f"the answer does not hold one finite vector per input: {answer.text[:300]}")
    return vectors.shape[1]
