"""The servers of the CLIP comparison."""

from dataclasses import replace

from benchmarks.compare.environments import WORK
from benchmarks.compare.servers import infinity, openai_dialect, our_server, ours_dialect

DIRECTORY = WORK / "clip"
MODEL = {"model_name": "ViT-B-32", "pretrained": "ViT-B-32.pt"}
"""The name of the model. `model` writes it in another process, so that this one does not import torch."""

OURS = our_server(
    DIRECTORY,
    MODEL,
    "/load_clip_model",
    ours_dialect("/infer_image", "image", MODEL),
    MODEL_SOURCES=f"{DIRECTORY}/sources",
)
STALL_SERVER = replace(
    OURS, name="ours, with a clock", command=("-m", "benchmarks.compare.clip.stall_server")
)
"""Our server with a clock on its event loop."""

INFINITY = infinity("clip", f"{DIRECTORY}/transformers", openai_dialect("clip", modality="image"))
