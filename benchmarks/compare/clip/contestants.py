"""The servers of the CLIP benchmarks; how each is started is told in `servers`, on text models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.compare.clip.inputs import uris
from benchmarks.compare.environments import WORK
from benchmarks.compare.servers import Dialect, Running, Server, openai_vectors
from benchmarks.loadtest.raw_http import HOST

DIRECTORY = WORK / "clip"
REPOSITORY = DIRECTORY / "model_repository"
MODEL = {"model_name": "ViT-B-32", "pretrained": "ViT-B-32.pt"}
"""Written by `model`, in another process: this one imports no torch."""


def _one_or_all(inputs: Sequence[str]) -> str | list[str]:
    return inputs[0] if len(inputs) == 1 else list(inputs)


def _vectors(answer: Any) -> list[list[float]]:  # noqa: ANN401 - parsed JSON
    return list(answer["embedding"])


_OURS_TEXT = Dialect("/infer_text", lambda texts: {**MODEL, "text": _one_or_all(texts)}, _vectors)
_OURS_IMAGE = Dialect("/infer_image", lambda images: {**MODEL, "image": _one_or_all(images)}, _vectors)
_INFINITY_TEXT = Dialect("/embeddings", lambda texts: {"model": "clip", "input": list(texts)}, openai_vectors)
_INFINITY_IMAGE = Dialect(
    "/embeddings",
    lambda images: {"model": "clip", "input": list(images), "modality": "image"},
    openai_vectors,
)
_IMAGE_DIALECTS = {"ours": _OURS_IMAGE, "ours, watched": _OURS_IMAGE, "infinity": _INFINITY_IMAGE}

OURS = Server(
    "ours",
    "this server",
    "",
    ("app.py",),
    _OURS_TEXT,
    {
        "MODEL_REPOSITORY": str(REPOSITORY),
        "MODEL_SOURCES": str(DIRECTORY / "sources"),
        "LOAD_MODELS": "ViT-B-32:ViT-B-32.pt",
        "PORT": "{port}",
        "HOST": HOST,
    },
    load_route="/load_clip_model",
    load_body=MODEL,
)
WATCHED = replace(OURS, name="ours, watched", command=("-m", "benchmarks.compare.clip.stall_server"))
"""The same with a clock on its event loop."""

INFINITY = Server(
    "infinity",
    "infinity-emb, torch",
    "infinity",
    (
        *("-c", "from infinity_emb.cli import cli; cli()", "v2", "--served-model-name", "clip"),
        *("--host", HOST, "--port", "{port}", "--engine", "torch"),
        *("--model-id", str(DIRECTORY / "transformers")),
    ),
    _INFINITY_TEXT,
)


def for_images(up: Running) -> Running:
    """The same running server, asked for images: its `embed` takes data URIs."""
    return replace(up, server=replace(up.server, dialect=_IMAGE_DIALECTS[up.server.name]))


def image_requests(up: Running, images: Sequence[bytes]) -> list[bytes]:
    """One request for each."""
    dialect = for_images(up).server.dialect
    return [dialect.request([uri]) for uri in uris(images)]
