"""What people write first: SentenceTransformer behind FastAPI, a thread pool, one encode a request.

Usage: python plain.py MODEL_DIRECTORY PORT
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cuda" if torch.cuda.is_available() else "cpu")
app = FastAPI()


class Body(BaseModel):
    """Texts to embed."""

    text: list[str]


@app.post("/embed")
def embed(body: Body) -> dict[str, list[list[float]]]:
    """Vectors of the texts; not async, so FastAPI runs it in its pool of threads."""
    return {"embedding": model.encode(body.text, batch_size=32, show_progress_bar=False).tolist()}


@app.get("/health")
async def health() -> dict[str, str]:
    """200 once the model is there."""
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
