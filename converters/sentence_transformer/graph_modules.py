"""The modules of a graph after the first one, made of the modules of sentence-transformers."""

from typing import Any

from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    WeightedLayerPooling,
)
from torch import nn

from converters.errors import InvalidModel
from converters.graph.pooling import GatherPooling, LayerMean, WordPooling
from converters.graph.sentence_graph import Tails
from converters.sentence_transformer import features
from converters.sentence_transformer.reference import ReferenceModel
from triton_models.contract.prompts import InputType

_NO_LAYERS = (
    "its WeightedLayerPooling changes nothing, here and in sentence-transformers, because its config.json "
    "does not set output_hidden_states"
)
_MOST_PADDED = 8192
"""Most tokens of a text, if all texts of a batch are padded to its length."""


def after_first(loaded: ReferenceModel) -> tuple[Tails, str | None]:
    """Return the modules of the graph after the first one.

    Returns:
        The modules, and a clause about one that has no effect; None if all have.

    Raises:
        InvalidModel: A module is not supported, which the message names, or there is no Pooling.
    """
    found = [_tail(loaded, input_type) for input_type in (None, *loaded.routed[:1])]
    if len({loaded.encode(["a"], "", kind).shape for kind in (None, *loaded.routed)}) > 1:
        raise InvalidModel(
            "the Router's routes give vectors of different lengths; save the modules of each route as a "
            "model of its own"
        )
    notices = (notice for _, notice in found if notice is not None)
    return Tails(*(modules for modules, _ in found)), next(notices, None)


def _tail(loaded: ReferenceModel, input_type: InputType | None) -> tuple[list[nn.Module], str | None]:
    """Return what `after_first` does, for texts of one type."""
    modules: list[nn.Module] = []
    notice = None
    for module in loaded.chain(input_type)[1:]:
        if isinstance(module, WeightedLayerPooling):
            # Without the option, the library gives no hidden states and passes over the module.
            if getattr(getattr(loaded.backbone, "config", None), "output_hidden_states", False):
                modules.append(_layer_mean(module))
            else:
                notice = _NO_LAYERS
        elif isinstance(module, Pooling):
            if not loaded.has_tokens:
                raise InvalidModel(f"the module Pooling after {_name(loaded.first)} is not supported")
            modules.append(_pooling(module, loaded))
        elif type(module) in (Dense, LayerNorm, Normalize):
            modules.append(module)
        elif type(module) is not Dropout:
            raise InvalidModel(f"the module {_name(module)} is not supported")
    pools = any(isinstance(module, GatherPooling) for module in modules)
    if not pools and loaded.has_tokens:
        raise InvalidModel("the model has no Pooling module: it gives token vectors, not one for a text")
    features.check(modules, is_static=not loaded.has_tokens)
    return modules, notice


def _pooling(module: Pooling, loaded: ReferenceModel) -> GatherPooling:
    mode: Any = module.pooling_mode
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    if loaded.backbone is not None:
        return GatherPooling(modes)
    if loaded.first.max_seq_length > _MOST_PADDED and not WordPooling.UNPADDED.issuperset(modes):
        raise InvalidModel(
            f"the Pooling of WordEmbeddings with the mode {', '.join(modes)} pads texts to the longest one; "
            f"set max_seq_length to at most {_MOST_PADDED} in wordembedding_config.json"
        )
    return WordPooling(modes)


def _name(module: object) -> str:
    return type(module).__name__


def _layer_mean(module: WeightedLayerPooling) -> LayerMean:
    weights: Any = module.layer_weights
    return LayerMean(weights.detach(), int(module.layer_start))
