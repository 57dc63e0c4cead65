"""`check.npz`: inputs and reference vectors recorded at conversion.

The check is repeated with them through Triton after each load. This module does not know where the file is.
"""

import io
import struct
import tokenize
import zlib
from dataclasses import dataclass
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

# The errors that numpy and zipfile raise for damaged content.
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    BadZipFile,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)


class DamagedCheck(ValueError):
    """`check.npz` cannot be read, or its arrays do not fit together."""


@dataclass(frozen=True)
class Check:
    """Texts as token ids with their reference vectors, recorded at conversion.

    Attributes:
        input_ids: int64 [sum of lengths], the rows one after another.
        lengths: int32 [n], tokens of each row.
        embeddings: float32 [n, D].
        empty_embedding: float32 [D], the vector of a text without tokens; None if every text has tokens.
    """

    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    embeddings: NDArray[np.float32]
    empty_embedding: NDArray[np.float32] | None

    @classmethod
    def read(cls, content: bytes) -> "Check":
        """Read the bytes of a `check.npz`.

        Raises:
            DamagedCheck: The bytes are not such a file.
        """
        arrays = _arrays(content)
        check = cls(
            _array(arrays, "input_ids", np.int64, "safe"),
            _array(arrays, "lengths", np.int32),
            _array(arrays, "embeddings", np.float32),
            _array(arrays, "empty_embedding", np.float32) if "empty_embedding" in arrays else None,
        )
        if not check.fits():
            raise DamagedCheck("check.npz does not fit itself")
        return check

    def fits(self) -> bool:
        """Return whether the shapes are those described above and the lengths add up."""
        shapes = self.input_ids.ndim == self.lengths.ndim == 1 and self.embeddings.ndim == 2
        if not shapes or len(self.lengths) != len(self.embeddings):
            return False
        empty = self.empty_embedding
        if empty is not None and empty.shape != self.embeddings.shape[1:]:
            return False
        return bool((self.lengths >= 0).all()) and int(self.lengths.sum()) == self.input_ids.size


@dataclass(frozen=True)
class ImageCheck:
    """Images as the tower receives them with their reference vectors, recorded at conversion.

    Attributes:
        images: uint8 [n, H, W, 3].
        embeddings: float32 [n, D].
    """

    images: NDArray[np.uint8]
    embeddings: NDArray[np.float32]

    @classmethod
    def read(cls, content: bytes) -> "ImageCheck":
        """Read the bytes of an image tower's `check.npz`.

        Raises:
            DamagedCheck: The bytes are not such a file.
        """
        arrays = _arrays(content)
        check = cls(
            _array(arrays, "images", np.uint8, "safe"),
            _array(arrays, "embeddings", np.float32),
        )
        shapes = check.images.ndim == 4 and check.embeddings.ndim == 2
        if not shapes or len(check.images) != len(check.embeddings):
            raise DamagedCheck("check.npz does not fit itself")
        return check


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except _DAMAGED as error:
        raise DamagedCheck("check.npz is damaged") from error


def _array(
    arrays: dict[str, NDArray[Any]],
    name: str,
    dtype: type[np.generic],
    casting: Literal["safe", "same_kind"] = "same_kind",
) -> NDArray[Any]:
    try:
        return arrays[name].astype(dtype, casting=casting)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedCheck("check.npz is damaged") from error
