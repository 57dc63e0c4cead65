"""The front end on a recording: no Triton runs, no model is there, and /infer answers what it answered."""

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.inference_store import processes, record_infer
from tests.inference_store.record_infer import MODEL_NAME, RECORDING
from triton_models.repository.repository import MODEL


def replay(recording: Path, tmp_path: Path) -> None:
    """Every answer of the recording, from a front end whose Triton is a store."""
    shutil.copytree(recording / "models", tmp_path / "models")
    assert all(weights.stat().st_size == 0 for weights in (tmp_path / "models").rglob(MODEL))
    options = ("serve", "--path", str(recording / "records"))
    with (
        processes.store(tmp_path / "store.log", *options) as store,
        record_infer.front_end(tmp_path / "models", tmp_path / "server.log", store.url) as server,
    ):
        expected = record_infer.answers(recording)
        for mine, theirs in zip(record_infer.ask(server), expected, strict=True):
            assert mine["body"] == theirs["body"]
            assert np.array_equal(mine["text_embeddings"], theirs["text_embeddings"])
        body = {"model_name": MODEL_NAME, "text": "never recorded"}
        missed = httpx.post(f"{server.url}/infer", json=body, trust_env=False)
        assert missed.status_code == 422
        assert "ModelInfer of model 'tiny_bert' is not recorded like this" in store.log.read_text()


def test_the_committed_recording_replays_with_no_triton(tmp_path: Path) -> None:
    replay(RECORDING, tmp_path)


@pytest.mark.slow
def test_a_new_recording_replays(tmp_path: Path) -> None:
    record_infer.record(tmp_path / "recording")
    replay(tmp_path / "recording", tmp_path / "replayed")
