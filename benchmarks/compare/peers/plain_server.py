"""A library behind a plain FastAPI with a thread pool, with one call of the model for each request.

Usage: python plain_server.py plain MODEL_DIRECTORY PORT       sentence-transformers
       python plain_server.py fastembed ONNX_DIRECTORY PORT    fastembed, on an ONNX export
"""

import sys
from collections.abc import Callable

import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel

Embed = Callable[[list[str]], NDArray[np.float32]]


def sentence_transformers(directory: str) -> Embed:
    """Open a model with sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(directory, device="cuda" if torch.cuda.is_available() else "cpu")
    return lambda texts: model.encode(texts, batch_size=32, show_progress_bar=False)


def fastembed(directory: str) -> Embed:
    """Open all-MiniLM-L6-v2 with fastembed."""
    from fastembed import TextEmbedding  # type: ignore[import-not-found]
    from fastembed.common.model_description import (  # type: ignore[import-not-found]
        ModelSource,
        PoolingType,
    )

    name = "local/all-MiniLM-L6-v2"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding(name, specific_model_path=directory)
    return lambda texts: np.stack(list(model.embed(texts, batch_size=32)))


class Body(BaseModel):
    """The texts to embed."""

    text: list[str]


def main(library: str, directory: str, port: int) -> None:
    """Serve until the end of the process."""
    embed = {"plain": sentence_transformers, "fastembed": fastembed}[library](directory)
    app = FastAPI()

    @app.post("/embed")
    def vectors(body: Body) -> dict[str, list[list[float]]]:
        """Embed the texts; the function is not async, so that FastAPI runs it in its thread pool."""
        return {"embedding": embed(body.text).tolist()}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
