"""Limits of a text's length that the model's positions set.

A table of learned positions ends somewhere, and the library fails on a longer text. If the model's own limit
is larger, texts are cut where the table ends. No configuration names that place for every architecture, so
the table is found by the rows that two short texts look up.
"""

from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode
from transformers import CLIPModel, PreTrainedModel

from converters.sentence_transformer.tokenizer import limit_of
from triton_models.contract.prompts import INPUT_TYPES

_SHORT, _LONGER = 5, 8
# Errors of torch for a row that a table does not have, and for shapes that do not fit together.
_FAILS = (IndexError, RuntimeError, ValueError)


class _Lookups(TorchFunctionMode):
    """Records the last row that is looked up in each table, by the table's address and number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[tuple[int, int], int] = {}

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - any function of torch
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.nn.functional.embedding and len(args) > 1 and args[0].numel():
            table = (args[1].data_ptr(), int(args[1].shape[0]))
            self.last[table] = max(self.last.get(table, 0), int(args[0].max()))
        return func(*args, **(kwargs or {}))


class Reference(Protocol):
    """A model of the library, of any kind."""

    @property
    def first(self) -> Any:  # noqa: ANN401 - classes that share no type
        """The first module."""

    @property
    def backbone(self) -> PreTrainedModel | None:
        """The transformers model; None for other first modules."""

    def fresh(self) -> "Reference":
        """Return a copy that shares the weights but has its own state."""


def fit_limits(reference: Reference) -> str | None:
    """Lower the reference's limits of tokens to what its table of positions holds.

    Returns:
        A clause about it for the caller; None if no limit had to be lowered.
    """
    if reference.backbone is None or not hasattr(reference.first.tokenizer, "backend_tokenizer"):
        return None
    limits = [limit_of(reference.first, kind) for kind in (None, *INPUT_TYPES)]
    end = _table_end(reference, limits)
    if end is None:
        return None
    _lower(reference.first, end)
    longest = None if None in limits else max(limit for limit in limits if limit is not None)
    asked = "it has no limit of tokens" if longest is None else f"its limit of {longest} tokens is too large"
    return (
        f"{asked}: it has {end} positions, and sentence-transformers fails on a longer text, which is cut to "
        f"{end} tokens here (max_seq_length {end} would do so in both)"
    )


def _table_end(reference: Reference, limits: list[int | None]) -> int | None:
    """Return the longest text for which there are positions, if a limit is beyond it; else None."""
    # A copy, because some models change with the texts that they see.
    first = reference.fresh().first
    short, longer = _last_rows(first, _SHORT), _last_rows(first, _LONGER)
    ends = {
        table[1] - last + _LONGER - 1
        for table, last in longer.items()
        if last - short.get(table, last) == _LONGER - _SHORT
    }
    for end in sorted(ends):
        # Relative positions are looked up alike, but all that are farther share the last row.
        if any(limit is None or limit > end for limit in limits) and not _last_rows(first, end + 1):
            return end
    return None


def _last_rows(first: Any, length: int) -> dict[tuple[int, int], int]:  # noqa: ANN401 - a `ReferenceModel.first`
    """Return the last rows looked up by a text of so many tokens; nothing if the model fails on it."""
    model = first.model.text_model if isinstance(first.model, CLIPModel) else first.model
    no_words = {*first.tokenizer.all_special_ids, getattr(model.config, "pad_token_id", None)}
    word = next(id_ for id_ in range(model.get_input_embeddings().num_embeddings) if id_ not in no_words)
    ids = torch.full((1, length), word)
    lookups = _Lookups()
    try:
        with torch.inference_mode(), lookups:
            first({"input_ids": ids, "attention_mask": torch.ones_like(ids), "modality": "text"})
    except _FAILS:
        return {}
    return lookups.last


def _lower(first: Any, most: int) -> None:  # noqa: ANN401 - a `ReferenceModel.first`
    """Set every limit that is beyond `most` tokens to it."""
    first.max_seq_length = min(first.max_seq_length or most, most)
    for name in ("query_length", "document_length"):
        own = getattr(first, name)
        setattr(first, name, None if own is None else min(own, most))
    for options in first.processing_kwargs.values():
        # These go before the limits above.
        if options.get("max_length") is not None:
            options["max_length"] = min(options["max_length"], most)
        if options.get("truncation") in (False, "do_not_truncate"):
            options["truncation"] = True
