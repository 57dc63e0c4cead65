"""What is recorded about a converted model: `model.json` beside its `model.onnx`.

Written once by the converter, read by the front end; the front end needs nothing else to tokenise.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from triton_models.accuracy import Precision

FORMAT = 1
"""Raised when older readers would misread a newer file."""


class ManifestError(ValueError):
    """`model.json` is damaged or of a format that this version does not read."""


@dataclass(frozen=True)
class Source:
    """Where the weights came from.

    kind: which of the places that are searched, in their order.
    path: directory that was read.
    commit: the Hub's commit for `cache` and `hub`, else None.
    files: relative path to [size in bytes, mtime in ns] of what was read, to notice a change.
    """

    kind: Literal["directory", "package", "cache", "hub"]
    path: str
    commit: str | None
    files: dict[str, list[int]]

    def has_changed(self) -> bool:
        """Whether the directory is still there and holds other files than those converted.

        A source that is gone has not changed: the converted model goes on serving without it.
        """
        root = Path(self.path)
        if not root.is_dir():
            return False
        return fingerprint(root) != self.files


@dataclass(frozen=True)
class Manifest:
    """One converted text model.

    model_name: as the caller names it; revision: as the caller asked for it, None for the default.
    dimensions: length of one embedding. vocab_size: ids must lie in [0, vocab_size).
    max_seq_length: tokens kept by truncation, special ones included; None for no limit.
    add_special_tokens: whether the reference adds them.
    attention: `packed` (no padding outside attention), `padded` (padding made inside the graph) or
        `none` (static embeddings); attention_reason: why, in a sentence.
    prompts, default_prompt_name: as the model publishes them.
    include_prompt: False where pooling leaves the prompt's tokens out; they are then sent marked.
    special_ids: ids that the reference takes off the end of a prompt when it counts its tokens.
    normalized: the graph's output has unit length.
    sha256: of `model.onnx`; Triton's version number is made of it.
    check: result of the comparison at conversion (`texts`, `min_cosine`, `worst_text`).
    versions: of the libraries that converted it. precision: of the weights.
    """

    model_name: str
    revision: str | None
    source: Source
    dimensions: int
    vocab_size: int
    max_seq_length: int | None
    add_special_tokens: bool
    attention: Literal["packed", "padded", "none"]
    attention_reason: str
    normalized: bool
    sha256: str
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True
    special_ids: list[int] = field(default_factory=list)
    check: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    precision: Precision = "fp32"
    library: str = "sentence-transformers"
    format: int = FORMAT

    @property
    def version(self) -> int:
        """Triton's version number: made of the content, so that no number names two contents.

        48 bits: positive in Triton's int64 and exact in JavaScript's numbers.
        """
        return int(self.sha256[:12], 16) | 1

    def to_json(self) -> str:
        """The text of `model.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read `model.json`.

        Raises:
            ManifestError: damaged, or of another format.

        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ManifestError(f"model.json has format {data['format']}, this version reads {FORMAT}")
            return cls(**{**data, "source": Source(**data["source"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(f"model.json cannot be read: {error}") from error


def fingerprint(root: Path) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns of every file below `root`, by relative path."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            stat = path.stat()
            found[path.relative_to(root).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found
