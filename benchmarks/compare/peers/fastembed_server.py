"""fastembed behind the same plain FastAPI, on an ONNX export in a local directory.

Usage: python fastembed_server.py MODEL_DIRECTORY PORT
"""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastembed import TextEmbedding  # type: ignore[import-not-found]
from fastembed.common.model_description import ModelSource, PoolingType  # type: ignore[import-not-found]
from pydantic import BaseModel

NAME = "local/all-MiniLM-L6-v2"
TextEmbedding.add_custom_model(
    model=NAME,
    pooling=PoolingType.MEAN,
    normalization=True,
    sources=ModelSource(hf=NAME),
    dim=384,
    model_file="model.onnx",
)
model = TextEmbedding(NAME, specific_model_path=sys.argv[1])
app = FastAPI()


class Body(BaseModel):
    """Texts to embed."""

    text: list[str]


@app.post("/embed")
def embed(body: Body) -> dict[str, list[list[float]]]:
    """Vectors of the texts; not async, so FastAPI runs it in its pool of threads."""
    return {"embedding": np.stack(list(model.embed(body.text, batch_size=32))).tolist()}


@app.get("/health")
async def health() -> dict[str, str]:
    """200 once the model is there."""
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
