"""What a conversion leaves of its check, to be repeated through Triton after each load: `check.npz`.

Knows nothing about where the file is.
"""

import io
from dataclasses import dataclass
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray


class DamagedCheck(ValueError):
    """`check.npz` cannot be read or does not fit itself."""


@dataclass(frozen=True)
class Check:
    """Texts as ids and their reference vectors, recorded at conversion.

    input_ids: int64 [sum of lengths], rows one after another. lengths: int32 [n].
    embeddings: float32 [n, D]. empty_embedding: float32 [D], the vector of a text without tokens,
    None where every text has some.
    """

    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    embeddings: NDArray[np.float32]
    empty_embedding: NDArray[np.float32] | None

    @classmethod
    def read(cls, content: bytes) -> "Check":
        """From the bytes of the file.

        Raises:
            DamagedCheck: they are not such a file.
        """
        arrays = _arrays(content)
        check = cls(
            _array(arrays, "input_ids", np.int64, "safe"),
            _array(arrays, "lengths", np.int32),
            _array(arrays, "embeddings", np.float32),
            arrays.get("empty_embedding"),
        )
        if check.lengths.sum() != check.input_ids.size or len(check.lengths) != len(check.embeddings):
            raise DamagedCheck("check.npz does not fit itself")
        return check


@dataclass(frozen=True)
class ImageCheck:
    """Images as the tower gets them and their reference vectors, recorded at conversion.

    images: uint8 [n, H, W, 3]. embeddings: float32 [n, D].
    """

    images: NDArray[np.uint8]
    embeddings: NDArray[np.float32]

    @classmethod
    def read(cls, content: bytes) -> "ImageCheck":
        """From the bytes of the file.

        Raises:
            DamagedCheck: they are not such a file.
        """
        arrays = _arrays(content)
        check = cls(
            _array(arrays, "images", np.uint8, "safe"),
            _array(arrays, "embeddings", np.float32),
        )
        if check.images.ndim != 4 or len(check.images) != len(check.embeddings):
            raise DamagedCheck("check.npz does not fit itself")
        return check


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
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
