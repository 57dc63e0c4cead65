"""The check that ends a load: it finds a served model in which a text can spoil others."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.errors import InvalidModel
from gateway.models.load_check import verify
from tests.support.tiny_onnx import DIMENSIONS, VOCAB_SIZE, expected
from tests.support.tiny_repository import manifest
from triton_models.client.errors import NotFinite
from triton_models.contract.checks import Check
from triton_models.contract.tokens import token_ids

PLANTED = VOCAB_SIZE
LENGTHS = [1, 2, 3, 7, 15, 16, 17, 31]


class Served:
    """Plays the client of a Triton, whose model may have a fault."""

    def __init__(self, fault: str | None) -> None:
        self.fault = fault
        self.planted = 0

    async def infer(
        self,
        name: str,
        version: int,  # noqa: ARG002 - the client's
        rows: NDArray[np.int64],
        *,
        timeout: float,  # noqa: ARG002 - the client's
        output: str,  # noqa: ARG002 - the client's
    ) -> NDArray[np.float32]:
        ids = token_ids(rows)
        if (ids == PLANTED).all():
            self.planted += 1
            await asyncio.sleep(0.05)
            self.planted -= 1
            if self.fault == "finite":
                return np.ones((1, DIMENSIONS), np.float32)
            raise NotFinite(name, 0)
        # By now all that are asked together are here.
        await asyncio.sleep(0.01)
        if self.fault == "spoilt" and self.planted:
            raise NotFinite(name, 0)
        if self.fault == "changed" and self.planted:
            return expected(2, ids)
        return expected(1, ids)


def verified(fault: str | None) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, VOCAB_SIZE, (1, length)) for length in LENGTHS]
    check = Check(
        np.concatenate([row[0] for row in rows]),
        np.array(LENGTHS, np.int32),
        np.concatenate([expected(1, row) for row in rows]),
        None,
    )
    model = manifest("tiny", b"", planted_id=PLANTED)
    asyncio.run(verify(Served(fault), "tiny", model, check, 5, lambda: None))  # type: ignore[arg-type]


def test_a_model_that_keeps_texts_apart_is_loaded() -> None:
    verified(None)


def test_a_planted_row_without_its_fault_is_found() -> None:
    with pytest.raises(InvalidModel, match="gives a finite vector for what has none"):
        verified("finite")


@pytest.mark.parametrize("fault", ["spoilt", "changed"])
def test_a_planted_row_that_changes_others_is_found(fault: str) -> None:
    with pytest.raises(InvalidModel, match="differs from the reference"):
        verified(fault)
