"""What is recorded about a converted model: `model.json` beside its `model.onnx`.

Written once by the converter, read by the front end; the front end needs nothing else to tokenise.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from triton_models.contract.accuracy import Precision
from triton_models.contract.prompts import InputType

FORMAT = 2
"""Raised when older readers would misread a newer file, or older graphs must not be served any more.

1: a text without a finite vector spoils the vectors of others in its batch.
"""


TextCleaning = Literal["lower", "whitespace", "canonicalize"]
"""open_clip's cleaning functions by their names there; `triton_models/contract/cleaning.py` has them."""


class ManifestError(ValueError):
    """`model.json` is damaged or of a format that this version does not read."""


@dataclass(frozen=True)
class Source:
    """Where the weights came from.

    kind: which of the places that are searched, in their order; `file` is a checkpoint in a source directory.
    path: directory or file that was read.
    commit: the Hub's commit for `cache` and `hub`, else None.
    files: relative path to [size in bytes, mtime in ns] of what was read, to notice a change.
    """

    kind: Literal["directory", "file", "package", "cache", "hub"]
    path: str
    commit: str | None
    files: dict[str, list[int]]

    def has_changed(self) -> bool:
        """Whether the source is still there and holds other files than those converted.

        A source that is gone has not changed: the converted model goes on serving without it.
        """
        root = Path(self.path)
        try:
            return root.exists() and fingerprint(root) != self.files
        except OSError:
            # No longer to be looked at, or no path at all.
            return False


@dataclass(frozen=True)
class ImagePreprocessing:
    """What is done to a picture, as RGB, before the graph gets it as uint8 [height, width, 3].

    Scaling to 0..1, mean and standard deviation are in the graph.

    resize_mode: `shortest`: the shorter edge is resized to the size, then the centre is cut out;
        `longest`: the longer edge is, then the rest is filled; `squash`: both, whatever the proportions.
    interpolation: `bicubic`, `bilinear` or `nearest`, of Pillow. fill_color: 0 to 255, of what is filled.
    """

    height: PositiveInt
    width: PositiveInt
    resize_mode: Literal["shortest", "longest", "squash"]
    interpolation: Literal["bicubic", "bilinear", "nearest"]
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


@dataclass(frozen=True)
class Manifest:
    """One converted model: a text model, or one tower of a CLIP model.

    model_name: as the caller names it; revision: as the caller asked for it, None for the default.
    dimensions: length of one embedding. vocab_size: ids must lie in [0, vocab_size).
    max_seq_length: tokens kept by truncation, special ones included; None for no limit.
    query_length, document_length: the same of queries and documents; None where it is `max_seq_length`.
    max_characters: of one text, where the tokenizer's time grows faster than the text; None for any number.
    add_special_tokens: whether the reference adds them.
    attention: `packed` (no padding outside attention), `padded` (padding made inside the graph) or
        `none` (static embeddings); attention_reason: why, in a sentence.
    prompts, default_prompt_name: as the model publishes them.
    include_prompt: False where pooling leaves the prompt's tokens out; they are then sent marked.
    special_ids: ids that the reference takes off the end of a prompt when it counts its tokens.
    normalized: the graph's output has unit length.
    planted_id: a token without a finite vector, which no text has. The checks send it among texts, whose
        vectors must not change. None of image towers.
    token_dimensions: length of a token's vector; None where the graph gives none (CLIP, older conversions).
    tokenizer_sha256: of `tokenizer.json`; None of image towers and older conversions.
    notice: what whoever loads the model should know, in a sentence; None for nothing, as of most models.
    sha256: of all that makes a vector (a tower's with its pair); Triton's version number is made of it.
    check: result of the comparison at conversion (`texts`, `min_cosine`, `worst_text`).
    versions: of the libraries that converted it. precision: of the weights.

    Of CLIP models only:
    pretrained: as the caller names it; empty for models of `hf-hub:`.
    tower: which half this is; None for a model of sentence-transformers.
    pair: `pair_digest` of both towers. Halves that differ in it, or one alone, are no model.
    text_cleaning: what open_clip does to a text before its tokenizer sees it, see `TextCleaning`.
    fixed_length: ids are filled up with `pad_id` to this length where the tower sees its padding; else None.
    image: of the image tower; its vocab_size is 0 and there is no tokenizer.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: str
    revision: str | None
    source: Source
    dimensions: PositiveInt
    vocab_size: NonNegativeInt
    max_seq_length: int | None
    add_special_tokens: bool
    attention: Literal["packed", "padded", "none"]
    attention_reason: str
    normalized: bool
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True
    special_ids: list[int] = field(default_factory=list)
    check: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    precision: Precision = "fp32"
    planted_id: int | None = None
    token_dimensions: int | None = None
    notice: str | None = None
    tokenizer_sha256: str | None = None
    max_characters: PositiveInt | None = None
    query_length: PositiveInt | None = None
    document_length: PositiveInt | None = None
    library: str = "sentence-transformers"
    pretrained: str | None = None
    tower: Literal["text", "image"] | None = None
    pair: str | None = None
    text_cleaning: TextCleaning | None = None
    fixed_length: int | None = None
    pad_id: int = 0
    image: ImagePreprocessing | None = None
    format: int = FORMAT

    @property
    def version(self) -> int:
        """Triton's version number: made of the content, so that no number names two contents.

        48 bits: positive in Triton's int64 and exact in JavaScript's numbers.
        """
        return int(self.sha256[:12], 16) | 1

    def length_of(self, input_type: InputType | None) -> int | None:
        """Tokens that the model takes of a text of this type, special ones included; None for any number."""
        own = {"query": self.query_length, "document": self.document_length, None: None}[input_type]
        return self.max_seq_length if own is None else own

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
                raise ManifestError(
                    f"it was converted by another version of this server (model.json has format "
                    f"{data['format']}, this version reads {FORMAT})"
                )
            return _READER.validate_json(text, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise ManifestError(f"model.json cannot be read: {where}: {fault['msg']}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ManifestError(f"model.json cannot be read: {error}") from error


_READER = TypeAdapter(Manifest)


def pair_digest(text_sha256: str, image_sha256: str) -> str:
    """What both manifests of a CLIP model carry as `pair`: towers of different conversions differ in it."""
    return hashlib.sha256(f"{text_sha256} {image_sha256}".encode()).hexdigest()


def fingerprint(root: Path) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns of every file below `root`, by relative path.

    Of `root` itself, by its name, where it is a file.
    """
    if root.is_file():
        stat = root.stat()
        return {root.name: [stat.st_size, stat.st_mtime_ns]}
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            stat = path.stat()
            found[path.relative_to(root).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found
