"""Padding of every text to one length, which a model may ask for in its `processing_kwargs`.

Padding is masked, so it changes no vector of most models. The graph makes its own, and none of that length.
"""

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidModel, shorten
from converters.sentence_transformer.reference import ReferenceModel
from triton_models.contract.accuracy import LEAST_ALONE, cosines

_TEXTS = ("Hello", "A short sentence.", "the river and the mountain of paper, " * 4)
_NORM_TOLERANCE = 1e-3


def leave_out(reference: ReferenceModel) -> None:
    """Remove padding to a fixed length from the reference, after a check that it changes no vector.

    Raises:
        InvalidModel: It does change vectors.
    """
    if reference.backbone is None:
        return
    asked = [options for options in reference.first.processing_kwargs.values() if "padding" in options]
    if not any(options["padding"] == "max_length" for options in asked):
        return
    padded = _each_alone(reference.fresh())
    for options in asked:
        del options["padding"]
    plain = _each_alone(reference.fresh())
    lengths = np.linalg.norm(padded, axis=1) / np.linalg.norm(plain, axis=1)
    same = cosines(padded, plain)
    if same.min() < LEAST_ALONE or np.abs(lengths - 1).max() > _NORM_TOLERANCE:
        raise InvalidModel(
            "the model pads every text to max_length (processing_kwargs in sentence_bert_config.json), and "
            f"its vectors depend on that padding, which is not supported: cosine {same.min():.4f} for "
            f"{shorten(_TEXTS[int(same.argmin())])}; set padding to longest"
        )


def _each_alone(reference: ReferenceModel) -> NDArray[np.float32]:
    """Return the vectors of the texts, float32 [n, D], none of which is padded to another."""
    return np.concatenate([reference.encode([text]) for text in _TEXTS])
