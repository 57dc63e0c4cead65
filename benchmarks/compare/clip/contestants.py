"""The servers of the CLIP comparison."""

from dataclasses import replace

from benchmarks.compare.environments import WORK
from benchmarks.compare.servers import HOST, Server, infinity_command, openai_dialect, ours_dialect

DIRECTORY = WORK / "clip"
MODEL = {"model_name": "ViT-B-32", "pretrained": "ViT-B-32.pt"}
"""The name of the model. `model` writes it in another process, so that this one does not import torch."""

OURS = Server(
    "ours",
    "this server",
    "",
    ("app.py",),
    ours_dialect("/infer_text", "text", MODEL),
    ours_dialect("/infer_image", "image", MODEL),
    {
        "MODEL_REPOSITORY": f"{DIRECTORY}/model_repository",
        "MODEL_SOURCES": f"{DIRECTORY}/sources",
        "LOAD_MODELS": ":".join(MODEL.values()),
        "PORT": "{port}",
        "HOST": HOST,
    },
    load_route="/load_clip_model",
    load_body=MODEL,
)
STALL_SERVER = replace(
    OURS, name="ours, with a clock", command=("-m", "benchmarks.compare.clip.stall_server")
)
"""Our server with a clock on its event loop."""

INFINITY = Server(
    "infinity",
    "infinity-emb, torch",
    "infinity",
    infinity_command("clip", f"{DIRECTORY}/transformers", "torch"),
    openai_dialect("clip"),
    openai_dialect("clip", modality="image"),
)
