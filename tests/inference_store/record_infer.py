"""Makes `recording/`: a run of /infer against the real Triton, with what replaying it needs.

    python -m tests.inference_store.record_infer

recording/records            what the front end asked of Triton, and was answered
recording/models   the model as the front end needs it: its ONNX file is empty
recording/answers.json       the requests to the front end, and its answers
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Server
from tests.inference_store import processes
from tests.support import tiny_models
from triton_models.repository.repository import MODEL

RECORDING = Path(__file__).with_name("recording")
MODEL_NAME = "tiny/bert"
TEXTS: list[Any] = [
    "a diver",
    ["a diver", "a dog"],
    "",
    ["one two three", "", "words of other lengths, and more of them", "a dog"],
    # Over 16 texts go out in groups of equal length.
    [f"text {number}" for number in range(10)] + [f"a longer text {number}" for number in range(10)],
]


@contextmanager
def front_end(repository: Path, log: Path, triton_url: str, **environment: str) -> Iterator[Server]:
    """A front end on what listens at `triton_url`."""
    server = Server(repository, {"TRITON_GRPC_ADDRESS": triton_url, **environment}, log)
    with server.running():
        yield server


def ask(server: Server) -> list[dict[str, Any]]:
    """Every request of TEXTS: its body and the embeddings answered."""
    answers = []
    with server.client() as client:
        for text in TEXTS:
            body = {"model_name": MODEL_NAME, "text": text}
            answer = client.post("/infer", json=body)
            answer.raise_for_status()
            answers.append({"body": body, "text_embeddings": answer.json()["text_embeddings"]})
    return answers


def answers(recording: Path) -> list[dict[str, Any]]:
    """What was answered then."""
    found: list[dict[str, Any]] = json.loads((recording / "answers.json").read_text())
    return found


def record(recording: Path) -> None:
    """Load the model on Triton, then record the run of a second front end."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tiny_models.transformer_model(root / "sources" / MODEL_NAME)
        repository = root / "models"
        repository.mkdir()
        with processes.triton(root, repository, ()) as triton:
            with (
                front_end(
                    repository, root / "load.log", triton.url, MODEL_SOURCES=str(root / "sources")
                ) as server,
                server.client() as client,
            ):
                body = {"model_name": MODEL_NAME}
                client.post("/load_sentence_transformer_model", json=body).raise_for_status()
            options = ("collect", "--target", triton.url, "--path", str(root / "records"))
            with (
                processes.store(root / "store.log", *options) as store,
                front_end(repository, root / "infer.log", store.url) as server,
            ):
                answered = ask(server)
        shutil.rmtree(recording, ignore_errors=True)
        shutil.copytree(root / "records", recording / "records")
        without = shutil.ignore_patterns("*.lock", "engine.json", "triton", "staging")
        shutil.copytree(repository, recording / "models", ignore=without)
        for weights in (recording / "models").glob(f"*/*/{MODEL}"):
            # The front end wants it to be there and does not read it.
            weights.write_bytes(b"")
        for manifest in (recording / "models").glob("*/*/model.json"):
            # Where this machine had the source is nobody's business.
            manifest.write_text(manifest.read_text().replace(str(root), ""))
        (recording / "answers.json").write_text(json.dumps(answered) + "\n")


if __name__ == "__main__":
    record(RECORDING)
