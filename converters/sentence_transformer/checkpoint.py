"""The weights of a checkpoint and what its configuration asks for."""

import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import AutoConfig, AutoModel

from converters.errors import InvalidModel, describe
from converters.loading_errors import LOADING_ERRORS
from converters.sources.weights import Stored

Model = TypeVar("Model", SentenceTransformer, CrossEncoder)

# Weights that no embedding depends on: a pre-training head that pooling never reads.
_UNUSED_WEIGHTS = re.compile(r"^(.*\.)?pooler\.")


def check_size(home: Path, stored: Stored, *, trust_remote_code: bool) -> None:
    """Refuse a configuration with more weights than are stored, before memory for them is allocated."""
    if not (home / "config.json").is_file() or trust_remote_code:
        return
    try:
        config = AutoConfig.from_pretrained(home, local_files_only=True)
        with torch.device("meta"):
            model = AutoModel.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    except LOADING_ERRORS:
        # The library gives a better message when it loads the model.
        return
    claimed = sum(part.numel() for part in (*model.parameters(), *model.buffers()))
    # Of an encoder-decoder model, sentence-transformers loads only the encoder.
    factor = 6 if config.is_encoder_decoder else 2
    stored.refuse_beyond(claimed, "config.json", factor)


def opened(kind: type[Model], directory: Path, home: Path, *, trust_remote_code: bool) -> Model:
    """Open a model of the library in evaluation mode, float32, on the CPU.

    Args:
        kind: SentenceTransformer or CrossEncoder.
        directory: Directory of the model.
        home: Directory of its transformer.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        InvalidModel: The library cannot load it.
    """
    try:
        model: Model = kind(
            str(directory),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            # Eager attention exists for every architecture, whatever the model asks for.
            model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"},
        )
    except LOADING_ERRORS as error:
        reason = mismatch(error, home) or describe(error, directory)
        raise InvalidModel(f"sentence-transformers cannot load the model: {reason}") from error
    model.eval().float()
    return model


def check_complete(
    first: Transformer, home: Path, *, trust_remote_code: bool, needs_pooler: bool = False
) -> None:
    """Refuse a checkpoint that lacks weights, because transformers would fill them with random numbers."""
    kind: Any = type(first.model)
    _, report = kind.from_pretrained(
        home,
        config=first.model.config,
        dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    lost = sorted(key for key in report["missing_keys"] if needs_pooler or not _UNUSED_WEIGHTS.match(key))
    lost += sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise InvalidModel(f"the checkpoint lacks weights of the model: {lost[0]}{more}")


def mismatch(error: Exception, home: Path) -> str | None:
    """Return which weight has another shape than config.json asks for; transformers' error only logs it."""
    if "ignore_mismatched_sizes" not in str(error):
        return None
    try:
        _, report = AutoModel.from_pretrained(
            home,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        name, stored, asked = min(report["mismatched_keys"])
    except LOADING_ERRORS:
        return None
    return (
        f"{name} has the shape {list(stored)} in the weights, and config.json asks for {list(asked)}; "
        "weights and configuration do not belong together"
    )
