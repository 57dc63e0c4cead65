"""The manifest of a converted model: `model.json` beside its `model.onnx`.

The converter writes it once and the gateway reads it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from triton_models.contract.accuracy import BOUNDS, LOGIT_BOUNDS, Bounds, Precision
from triton_models.contract.prompts import InputType

FORMAT = 2
"""The format's number. It rises when older readers would misread a newer file, or when older graphs must not
be served any more. Graphs of format 1: a text without a finite vector spoils the others in its batch.
"""


TextCleaning = Literal["lower", "whitespace", "canonicalize"]
"""open_clip's cleaning functions by open_clip's names; they are in `triton_models/contract/cleaning.py`."""


class ManifestError(ValueError):
    """`model.json` is damaged, or this version does not read its format."""


@dataclass(frozen=True)
class Source:
    """The origin of a model's weights.

    Attributes:
        kind: The kind of place, in the order of the search; `file` is a checkpoint in a source directory.
        path: Directory or file that was read.
        commit: The Hub's commit for `cache` and `hub`, otherwise None.
        files: [size in bytes, mtime in ns] of every file that was read, by relative path, to notice a change.
    """

    kind: Literal["directory", "file", "package", "cache", "hub"]
    path: str
    commit: str | None
    files: dict[str, list[int]]

    def has_changed(self) -> bool:
        """Return whether the source still exists and differs from the files that were converted.

        A missing source counts as unchanged: the converted model goes on serving without it.
        """
        root = Path(self.path)
        try:
            return root.exists() and fingerprint(root) != self.files
        except OSError:
            # The path can no longer be read, or it is not a valid path.
            return False


@dataclass(frozen=True)
class ImagePreprocessing:
    """The preprocessing of an RGB image before the graph receives it as uint8 [height, width, 3].

    The graph itself scales to 0..1 and applies mean and standard deviation.

    Attributes:
        height: Pixels.
        width: Pixels.
        resize_mode: `shortest` resizes the shorter edge, then cuts out the centre; `longest` resizes the
            longer edge, then fills the rest; `squash` resizes both edges, whatever the proportions.
        interpolation: Pillow's name.
        fill_color: 0 to 255, the value of all channels in the filled part.
    """

    height: PositiveInt
    width: PositiveInt
    resize_mode: Literal["shortest", "longest", "squash"]
    interpolation: Literal["bicubic", "bilinear", "nearest"]
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


@dataclass(frozen=True)
class WordLookup:
    """The rules by which the words of a text are found in a list of words, see `words.finder`.

    Attributes:
        stop_words: Words that are left out.
        lower_case: Whether texts are lower-cased first.
    """

    stop_words: list[str]
    lower_case: bool


Kind = Literal["embedding", "cross-encoder"]
"""The kinds of models: one gives vectors of texts or images, the other scores of pairs of texts."""

Activation = Literal["sigmoid", "identity"]
"""The activations of cross-encoders, which map logits to scores."""


@dataclass(frozen=True)
class PairTemplate:
    """The row of a pair: `before`, the first text, `between`, the second text, `after`.

    Attributes:
        before: Elements of `input_ids` before the first text.
        between: Elements between the texts.
        after: Elements after the second text.
        flag: Flag on each token of the second text, SECOND_TEXT or 0; the special tokens have theirs.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    flag: int


@dataclass(frozen=True)
class Scoring:
    """The scores of a cross-encoder.

    Attributes:
        labels: Name of each logit.
        activation: Function that `CrossEncoder.predict` applies to the logits.
        template: The row of a pair.
    """

    labels: list[str]
    activation: Activation
    template: PairTemplate


@dataclass(frozen=True)
class Manifest:
    """One converted model: a text model, a cross-encoder, or one tower of a CLIP model.

    Attributes:
        model_name: Name that the caller gave.
        revision: Revision that the caller asked for; None for the default.
        source: Origin of the weights.
        dimensions: Length of one embedding; number of logits of a cross-encoder.
        vocab_size: Token ids must lie in [0, vocab_size); 0 for an image tower.
        max_seq_length: Tokens kept by truncation, special ones included; None for no limit.
        add_special_tokens: Whether the reference adds special tokens.
        attention: `packed` (no padding outside attention), `padded` (padding made inside the graph) or
            `none` (static embeddings).
        attention_reason: The reason for `attention`, in a sentence.
        normalized: Whether the graph's output has unit length.
        sha256: Digest of everything that determines a vector; a tower's includes its pair. Triton's version
            number is made of it.
        prompts: Prompts that the model publishes, by name.
        default_prompt_name: Name that the model publishes.
        include_prompt: False if pooling leaves the prompt's tokens out; they are then sent marked.
        special_ids: Ids that the reference removes from the end of a prompt when it counts the tokens.
        check: Result of the comparison at conversion (`texts`, `min_cosine`, `worst_text`).
        versions: Versions of the libraries that converted the model.
        precision: Precision of the weights.
        planted_id: A token without a finite vector, which occurs in no text; None for an image tower. The
            checks send it among texts, whose vectors must not change.
        token_dimensions: Length of a token's vector; None if the graph has none (CLIP, older conversions).
        notice: A sentence for the person who loads the model; None for most models.
        tokenizer_sha256: Digest of `tokenizer.json`; None for image towers and older conversions.
        max_characters: Limit of one text, if the tokenizer's time grows faster than the text; else None.
        query_length: Like `max_seq_length` for queries; None if equal to it.
        document_length: Like `max_seq_length` for documents; None if equal to it.
        library: Library that the model is made for.
        pretrained: CLIP: tag or file that the caller named; empty for models of `hf-hub:`.
        tower: CLIP: which tower this is; None for a model of sentence-transformers.
        pair: CLIP: `pair_digest` of both towers. Towers that differ in it, or one alone, are no model.
        text_cleaning: CLIP: open_clip's cleaning before its tokenizer, see `TextCleaning`.
        routed: Input types whose texts take the other of two routes through the graph; they are sent marked.
        word_lookup: Rules by which words are found in `tokenizer.json`; None for other tokenizers.
        fixed_length: CLIP: length to which `pad_id` fills the ids, if the tower sees its padding; else None.
        pad_id: CLIP: id of the padding.
        image: Preprocessing of an image tower, which has no tokenizer; None for text.
        kind: Kind of the model.
        scoring: Scores of a cross-encoder; None for other kinds.
        format: Number of the format, see FORMAT.
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
    routed: list[InputType] = field(default_factory=list)
    word_lookup: WordLookup | None = None
    fixed_length: int | None = None
    pad_id: int = 0
    image: ImagePreprocessing | None = None
    kind: Kind = "embedding"
    scoring: Scoring | None = None
    format: int = FORMAT

    @property
    def bounds(self) -> Bounds:
        """The accuracy bounds of the model's outputs."""
        return bounds_of(self.kind, self.precision)

    @property
    def version(self) -> int:
        """Triton's version number, made of the content so that no number names two contents.

        Its 48 bits are positive in Triton's int64 and exact in JavaScript's numbers.
        """
        return int(self.sha256[:12], 16) | 1

    def length_of(self, input_type: InputType | None) -> int | None:
        """Return the most tokens of a text of this type, special ones included; None for no limit."""
        own = {"query": self.query_length, "document": self.document_length, None: None}[input_type]
        return self.max_seq_length if own is None else own

    def to_json(self) -> str:
        """Return the text of `model.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read `model.json`.

        Raises:
            ManifestError: The text is damaged or of another format.
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


def bounds_of(kind: Kind, precision: Precision) -> Bounds:
    """Return the accuracy bounds of models of a kind and precision."""
    return (LOGIT_BOUNDS if kind == "cross-encoder" else BOUNDS)[precision]


def pair_digest(text_sha256: str, image_sha256: str) -> str:
    """Return the `pair` of both manifests of a CLIP model; towers of different conversions differ in it."""
    return hashlib.sha256(f"{text_sha256} {image_sha256}".encode()).hexdigest()


def fingerprint(root: Path) -> dict[str, list[int]]:
    """Return the size in bytes and the modification time in ns of every file below `root`, by relative path.

    If `root` is a file, return those of `root`, by its name.
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
