"""The first module of a graph, made of the first module of a SentenceTransformer."""

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import BoW, WordEmbeddings
from transformers import PreTrainedModel

from converters.graph.clip_text import ClipText
from converters.graph.sentence_graph import (
    Attention,
    Backbone,
    First,
    Inputs,
    StaticMean,
    plant,
    use_attention,
)
from converters.graph.words import WordCounts, WordTable
from converters.sentence_transformer.reference import ReferenceModel


def transformer(loaded: ReferenceModel, attention: Attention, layers: bool) -> First:
    """Return the transformer, with the given attention; `layers` asks for the hidden states of all layers."""
    backbone: Any = loaded.backbone
    assert backbone is not None
    use_attention(backbone, attention)
    inputs = inputs_of(loaded.first, backbone)
    if loaded.has_tokens:
        return Backbone(backbone, inputs, attention, layers)
    projection = loaded.first.model.text_projection
    return ClipText(backbone, projection, int(backbone.eos_token_id), inputs, attention)


def without_attention(loaded: ReferenceModel) -> First:
    """Return a first module that looks words up."""
    first = loaded.first
    if isinstance(first, WordEmbeddings):
        return WordTable(first.emb_layer)
    if isinstance(first, BoW):
        weights = torch.tensor(first.weights, dtype=torch.float32)
        return WordCounts(weights, first.cumulative_term_frequency)
    return StaticMean(first.embedding.weight.detach())


def vocab_size(loaded: ReferenceModel) -> int:
    """Return the number of ids that texts may hold: those of the table of words."""
    first, backbone = loaded.first, loaded.backbone
    if isinstance(first, BoW):
        return len(first.vocab)
    if isinstance(first, WordEmbeddings):
        return int(first.emb_layer.num_embeddings)
    if backbone is None:
        return int(first.num_embeddings)
    table: Any = backbone.get_input_embeddings()
    return int(table.num_embeddings)


def plant_flaw(loaded: ReferenceModel) -> int:
    """Add a token without a finite vector and return its id; `StaticMean` and `WordCounts` have their own."""
    if isinstance(loaded.first, WordEmbeddings):
        return plant(loaded.first, loaded.first.emb_layer)
    if loaded.backbone is None:
        return vocab_size(loaded)
    table: Any = loaded.backbone.get_input_embeddings()
    return plant(loaded.backbone, table)


def images_left_out(loaded: ReferenceModel) -> str | None:
    """Return a clause about the images that a model takes and this server does not; None for other models."""
    if set(getattr(loaded.model[0], "modalities", ["text"])) == {"text"}:
        return None
    return (
        "it also embeds images, which are not served, only its texts are; /load_clip_model serves both for "
        "CLIP models of open_clip"
    )


def inputs_of(first: Any, backbone: PreTrainedModel) -> Inputs:  # noqa: ANN401 - the library's module
    """Return the inputs of an architecture, by its modules and by the inputs that the reference passes."""
    modules = dict(backbone.named_modules())
    given = first.preprocess([""])
    table = next((module for name, module in modules.items() if name.endswith("position_embeddings")), None)
    takes = first._declared_forward_params
    has_types = "token_type_ids" in given or any(name.endswith("token_type_embeddings") for name in modules)
    pad_id = getattr(backbone.config, "pad_token_id", None)
    if pad_id is None:
        pad_id = getattr(first.tokenizer, "pad_token_id", None)
    return Inputs(
        token_types="token_type_ids" in takes and has_types,
        positions="position_ids" in takes,
        padding_id=getattr(table, "padding_idx", None),
        pad_id=pad_id or 0,
    )
