"""docs/guides/clients.md: each block, run as it is by the real client, gives the vectors of `POST /infer`."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import MINILM, ROOT, Server
from tests.support.vectors import cosines

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
PAGE = (ROOT / "docs" / "guides" / "clients.md").read_text()
ADDRESS = "http://127.0.0.1:8686"
TEXTS = ["a diver", "a dog"]

BLOCKS = [
    pytest.param(heading, block, id=f"{heading} {number}")
    for heading, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", section, re.DOTALL), 1)
]
"""Headings and programs of the page."""

SHOW = """
import json
print(json.dumps([[float(value) for value in vector] for vector in vectors]))
"""


def run(program: str, server: Server, tmp_path: Path) -> str:
    """What a program prints that was given the address of the running server in place of the page's."""
    assert PYTHON.exists(), "run scripts/install-clients"
    environment = {
        "PATH": os.environ["PATH"],
        # None of these clients has to look anything up elsewhere.
        "HOME": str(tmp_path),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(
        [PYTHON, "-c", program.replace(ADDRESS, server.url)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def infer(server: Server, **fields: object) -> NDArray[np.float32]:
    with server.client() as client:
        answer = client.post("/infer", json={"model_name": MINILM, **fields})
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["text_embeddings"], dtype=np.float32)


@pytest.mark.parametrize(("heading", "block"), BLOCKS)
def test_a_block_of_the_page(server: Server, tmp_path: Path, heading: str, block: str) -> None:
    assert ADDRESS in block
    assert len([line for line in block.splitlines() if line and not line.startswith(("import", "from"))]) <= 5
    vectors = np.array(json.loads(run(block + SHOW, server, tmp_path).splitlines()[-1]), dtype=np.float32)
    assert cosines(vectors, infer(server, text=TEXTS)).min() >= 0.99999, heading


def test_the_page_has_every_client() -> None:
    requirements = (ROOT / "requirements-clients.txt").read_text()
    for package in (*re.findall(r"^([a-z][a-z-]+)", requirements, re.MULTILINE), "openai", "huggingface-hub"):
        module = package.replace("llama-index-embeddings-", "llama_index.embeddings.").replace("-", "_")
        assert re.search(rf"(from|import) {re.escape(module)}", PAGE), package


INGRAIN = f"""
import ingrain, json
client = ingrain.Client(inference_server_url="{ADDRESS}", model_server_url="{ADDRESS}")
inference, model = client.health()
model = client.load_model("tiny/static", library="sentence_transformers")
shapes = [
    inference.message,
    [[model.name, model.library] for model in client.loaded_models().models],
    [model.name for model in client.repository_models().models],
    [model.name for model in client.metrics().model_stats if model.inference_stats["success"].count],
    client.model_embedding_dims("tiny/static").embedding_size,
    model.embed_text("a diver", normalize=False, n_dims=8).embeddings,
    client.embed("tiny/static", text=["a diver"]).text_embeddings,
    client.embed("tiny/static", text=["a diver"]).image_embeddings,
]
print(json.dumps(shapes))
"""


def test_ingrain_finds_its_way_about(server: Server, tmp_path: Path) -> None:
    health, loaded, repository, stats, dimensions, cut, whole, images = json.loads(
        run(INGRAIN, server, tmp_path).splitlines()[-1]
    )
    assert health == "ok"
    assert [MINILM, "sentence_transformers"] in loaded
    assert "tiny_static" in repository
    assert "tiny_static" in stats
    assert (len(cut[0]), len(whole[0])) == (8, dimensions)
    assert images is None
    assert np.linalg.norm(cut[0]) == pytest.approx(1, abs=1e-5)
    with server.client() as client:
        assert MINILM.replace("/", "_") in client.get("/loaded_models").json()["models"]
