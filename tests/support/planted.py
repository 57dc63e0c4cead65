"""Checks that a word with a NaN, infinite or huge vector changes no other text of its batch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.sessions import ENGINES, has_bfloat16

SPOILS = {"NaN": np.nan, "inf": np.inf, "1e38": 1e38}
LENGTHS = (3, 5, 9, 17, 4, 30, 7, 2, 3, 16, 33, 6, 8, 12, 5, 60, 3, 4, 11, 21, 9, 14, 2, 40)
"""Numbers of tokens of 24 texts."""
SPOILT = (1, 4, 10, 23)
"""Indices of the texts with the word; the last text of a batch is among them."""

Rows = Sequence[NDArray[np.int64]]


def with_value(model: Path, planted_id: int, value: float) -> Path:
    """Write a copy of `model.onnx` in which every element of the planted id's vector is `value`."""
    proto = onnx.load(model)
    (table,) = [
        weight
        for weight in proto.graph.initializer
        if weight.dims[0:1] == [planted_id + 1] and np.isnan(numpy_helper.to_array(weight)[-1]).all()
    ]
    rows = numpy_helper.to_array(table).copy()
    rows[-1] = value
    table.CopyFrom(numpy_helper.from_array(rows, table.name))
    path = model.with_name(f"planted_{value}.onnx")
    onnx.save(proto, path)
    return path


def engines(model: Path, streams: Sequence[int] = (2,)) -> Iterator[tuple[str, Engine]]:
    """Yield every engine that this CPU supports, with its name; of two streams, one is for single texts."""
    for name in ENGINES:
        if name.precision == "fp32" or has_bfloat16():
            for count in streams:
                yield f"{name} in {count} streams", Engine(model, 2, name, count)


def texts(vocab_size: int, lengths: Sequence[int] = LENGTHS) -> Rows:
    """Return texts of random ids, none of them special."""
    random_ids = np.random.default_rng(7)
    return [random_ids.integers(5, vocab_size, length) for length in lengths]


def assert_kept_apart(
    run: Callable[[Rows], NDArray[np.float32]], rows: Rows, word: int, what: str, parts: int = 1
) -> None:
    """Check that a planted word changes no other text's vector by a bit.

    The vector of a text with the word must not be finite, or must be the one that the text gets alone.

    Args:
        run: Returns the vectors of texts, float32 [n, D].
        rows: Token ids of the texts.
        word: Id that replaces the middle token of the texts of SPOILT, then all of their tokens.
        what: Named in failures; "1e38" in it allows finite vectors.
        parts: Number of equal parts of a vector that are checked separately, such as several poolings.
    """
    clean = run(rows)
    assert np.isfinite(clean).all(), what
    others = np.setdiff1d(np.arange(len(rows)), SPOILT)
    for whole in (False, True):
        spoilt = [row.copy() for row in rows]
        for number in SPOILT:
            spoilt[number][slice(None) if whole else spoilt[number].size // 2] = word
        found = run(spoilt)
        np.testing.assert_array_equal(found[others], clean[others], err_msg=what)
        for number in SPOILT:
            for part, alone in zip(
                np.split(found[number], parts), np.split(run([spoilt[number]])[0], parts), strict=True
            ):
                if np.isfinite(part).all():
                    # A number of 1e38 alone may come to nothing in a norm: then that is its vector.
                    assert "1e38" in what
                    np.testing.assert_allclose(part, alone, rtol=1e-3, atol=1e-5, err_msg=what)
                else:
                    assert not np.isfinite(alone).all(), what


def of(engine: Engine) -> Callable[[Rows], NDArray[np.float32]]:
    """Return a function that runs the engine on token ids."""
    return lambda rows: engine.run(np.concatenate(rows), np.array([row.size for row in rows], np.int32))


def assert_all_kept_apart(
    model: Path,
    planted_id: int,
    vocab_size: int,
    lengths: Sequence[int] = LENGTHS,
    parts: int = 1,
    streams: Sequence[int] = (2,),
) -> None:
    """Call `assert_kept_apart` with every value of SPOILS on every engine."""
    rows = texts(vocab_size, lengths)
    for spoil, value in SPOILS.items():
        for name, engine in engines(with_value(model, planted_id, value), streams):
            assert_kept_apart(of(engine), rows, planted_id, f"{spoil}, {name}", parts)
