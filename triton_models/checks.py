"""What a conversion leaves of its check, to be repeated through Triton after each load: `check.npz`.

Knows nothing about where the file is.
"""

import io
from dataclasses import dataclass
from typing import Any
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
        try:
            check = cls(
                arrays["input_ids"].astype(np.int64, casting="safe"),
                arrays["lengths"].astype(np.int32, casting="same_kind"),
                arrays["embeddings"].astype(np.float32, casting="same_kind"),
                arrays.get("empty_embedding"),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedCheck("check.npz is damaged") from error
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
        try:
            check = cls(
                arrays["images"].astype(np.uint8, casting="safe"),
                arrays["embeddings"].astype(np.float32, casting="same_kind"),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedCheck("check.npz is damaged") from error
        if check.images.ndim != 4 or len(check.images) != len(check.embeddings):
            raise DamagedCheck("check.npz does not fit itself")
        return check


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise DamagedCheck("check.npz is damaged") from error
