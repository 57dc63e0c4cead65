"""Tests of a model replaced while it serves, and of Triton killed together with its cache."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tests.faults.conftest import LIMIT, TEXTS, Farm
from tests.faults.load import Load, Pool
from tests.faults.processes import triton_of
from tests.support import tiny_models

NAME = "swapped/model"
LOAD = "/load_sentence_transformer_model"


def reference(path: Path) -> NDArray[np.float32]:
    return np.asarray(SentenceTransformer(str(path), device="cpu").encode(TEXTS), np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_replaced_model_answers_no_old_vector_through_kills(
    farm: Farm, tmp_path: Path, note: Callable[[str, Load], None]
) -> None:
    versions = [tiny_models.static_model(tmp_path / f"version{seed}", seed=seed) for seed in (3, 5)]
    vectors = [reference(path) for path in versions]
    source = tmp_path / "sources" / NAME
    shutil.copytree(versions[0], source)
    server = farm.server(tmp_path, MODEL_SOURCES=str(tmp_path / "sources"), LOAD_MODELS="")
    pool = Pool({"model_name": NAME}, TEXTS, vectors[0])
    with ExitStack() as stack:
        stack.enter_context(server.running())
        client = stack.enter_context(server.client())
        assert client.post(LOAD, json={"model_name": NAME}).status_code == 200
        under = stack.enter_context(Load(server.port, [pool], limit=LIMIT))
        under.settle()
        # There and back: the first version's vectors are in the cache when it returns.
        for new in (1, 0):
            shutil.rmtree(source)
            shutil.copytree(versions[new], source)
            pool.also = [vectors[new]]
            with under.fault():
                answer = client.post(LOAD, json={"model_name": NAME})
                assert answer.status_code == 200, answer.text
                # From here on every request that begins must get the new one.
                pool.vectors, pool.also = vectors[new], []
            with under.fault():
                triton_of(server).kill()
    note("a model replaced and put back, each time with a SIGKILL of Triton", under)
    under.check()
