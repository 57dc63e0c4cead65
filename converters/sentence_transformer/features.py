"""The vectors that pass from module to module, by the names under which modules read and write them."""

from collections.abc import Sequence
from typing import Any

from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from converters.errors import InvalidModel
from converters.graph.pooling import GatherPooling, LayerMean

_TOKENS, _SENTENCE = "token_embeddings", "sentence_embedding"


def check(modules: Sequence[nn.Module], *, is_static: bool) -> None:
    """Refuse modules that read what no module before them writes, or mix vectors of tokens and of texts.

    Args:
        modules: The modules of the graph after the first one.
        is_static: Whether the first one is a static embedding, which gives vectors of texts only.

    Raises:
        InvalidModel: A module is refused; the message names it and what to change.
    """
    # The value is True if there is a vector for each token, and False if there is one for each text.
    known = {_SENTENCE: False} if is_static else {_TOKENS: True}
    for number, module in enumerate(modules, start=1):
        if isinstance(module, GatherPooling):
            if not known[_TOKENS]:
                raise _refusal(
                    number, "Pooling", f"pools {_TOKENS}, which hold a vector for each text by then"
                )
            known[_SENTENCE] = False
            continue
        if isinstance(module, LayerMean):
            known[_TOKENS] = True
            continue
        kind = type(module).__name__
        given: Any = getattr(module, "module_input_name", _SENTENCE)
        gives: Any = getattr(module, "module_output_name", given)
        if given not in known:
            if isinstance(module, Normalize):
                # The library passes over it then, and so does the graph.
                continue
            raise _refusal(number, kind, f"reads {given!r}, which no module before it gives")
        for_tokens = known[given]
        if gives in (_TOKENS, _SENTENCE) and for_tokens != (gives == _TOKENS):
            raise _refusal(number, kind, f"writes vectors of {_of(for_tokens)} as {gives!r}")
        known[gives] = for_tokens


def end_normalized(modules: Sequence[nn.Module]) -> bool:
    """Return whether the last module gives the vectors of texts unit length."""
    last: Any = modules[-1]
    return isinstance(last, Normalize) and last.module_output_name == _SENTENCE


def _of(for_tokens: bool) -> str:
    return "tokens" if for_tokens else "texts"


def _refusal(number: int, kind: str, what: str) -> InvalidModel:
    return InvalidModel(
        f"module {number} ({kind}) {what}, which is not supported; change its module_input_name or "
        "module_output_name, or its place in modules.json"
    )
