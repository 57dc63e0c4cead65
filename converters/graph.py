"""The whole model as one module with the signature of the model contract.

    input_ids int64 [total], item_shape int32 [batch, 1]
        ->  sentence_embedding float32 [batch, D], token_embeddings float32 [total, H]

Knows nothing about files, tokenizers or ONNX.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from converters.packing import ATTENTION, VECTOR, Layout, packed_attention
from converters.pooling import GatherPooling
from triton_models.tokens import NOT_POOLED, TOKEN_ID_BITS

Attention = Literal["packed", "padded", "none"]


@dataclass(frozen=True)
class Inputs:
    """What the backbone takes beside ids and mask.

    token_types: zeros are passed. positions: position ids are passed. padding_id: positions count from
    this id plus one and jump over tokens of this id (RoBERTa); None where they count from 0.
    pad_id: the id that padding is filled with.
    """

    token_types: bool
    positions: bool
    padding_id: int | None
    pad_id: int


class Backbone(nn.Module):
    """A transformer over one row of all tokens (packed), or over padding made inside the graph."""

    def __init__(self, model: nn.Module, inputs: Inputs, attention: Attention) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.packed = attention == "packed"

    def forward(self, ids: Tensor, layout: Layout) -> Tensor:
        """Token vectors, float32 [total, H], of `ids`, int64 [total]."""
        if self.packed:
            positions = self._positions(ids, layout).unsqueeze(0) if self.inputs.positions else None
            with packed_attention.on(layout):
                return self._run(ids.unsqueeze(0), layout.valid, positions)[0]
        padded = torch.where(layout.valid, layout.pad(ids), self.inputs.pad_id)
        # Padding comes last, so the model's own positions are right; no need to pass them.
        return layout.pack(self._run(padded, layout.valid, None))

    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor | None) -> Tensor:
        options = {"input_ids": ids, "attention_mask": mask.to(torch.int64), "return_dict": True}
        if positions is not None:
            options["position_ids"] = positions
        if self.inputs.token_types:
            options["token_type_ids"] = torch.zeros_like(ids)
        hidden: Tensor = self.model(**options).last_hidden_state
        return hidden

    def _positions(self, ids: Tensor, layout: Layout) -> Tensor:
        """int64 [total]; see `create_position_ids_from_input_ids` of transformers' RoBERTa."""
        if self.inputs.padding_id is None:
            return layout.positions
        counted = (ids != self.inputs.padding_id).to(torch.int64)
        running = counted.cumsum(0)
        before_row = (running - counted).index_select(0, layout.tokens[:, 0])
        return (running - before_row.index_select(0, layout.rows)) * counted + self.inputs.padding_id


class StaticMean(nn.Module):
    """Static vectors, float32 [total, H], and their mean over each text, float32 [batch, H].

    By one matrix product, not by padding: static models have no longest text, and one long text
    among many short ones would multiply the memory.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of `ids` (int64 [total]), and the mean of each text's."""
        ends = lengths.cumsum(0).unsqueeze(1)
        place = torch.arange(ids.shape[0]).unsqueeze(0)
        within = (place < ends) & (place >= ends - lengths.unsqueeze(1))
        vectors: Tensor = self.embedding(ids)
        mean: Tensor = within.to(vectors.dtype) @ vectors / lengths.unsqueeze(1)
        return vectors, mean


class SentenceGraph(nn.Module):
    """Ids in, embeddings of sentences and tokens out; see the head of this file.

    modules: what follows the first module, in the saved order: modules of sentence-transformers that
        read and write a dict of features, and `GatherPooling` in the place of `Pooling`.
    truncate: keep this many leading dimensions; None keeps all.
    prompt_flag: tokens marked NOT_POOLED are left out of pooling.
    """

    def __init__(
        self,
        first: Backbone | StaticMean,
        modules: Sequence[nn.Module],
        truncate: int | None,
        prompt_flag: bool,
    ) -> None:
        super().__init__()
        self.first = first
        self.after = nn.ModuleList(modules)
        self.truncate = truncate
        self.prompt_flag = prompt_flag

    def forward(self, input_ids: Tensor, item_shape: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [batch, D] and [total, H] of int64 [total] and int32 [batch, 1]."""
        # By bits and not by Mod: OpenVINO computes Mod in fp32, which takes one id for another.
        ids = torch.bitwise_and(input_ids, (1 << TOKEN_ID_BITS) - 1)
        lengths = item_shape.reshape(-1).to(torch.int64)
        if isinstance(self.first, StaticMean):
            tokens, mean = self.first(ids, lengths)
            features = {"sentence_embedding": mean}
            layout = None
        else:
            layout = Layout.of(lengths, ids.shape[0], VECTOR if self.first.packed else 1)
            tokens = self.first(ids, layout)
            features = {"token_embeddings": tokens}
        for module in self.after:
            if isinstance(module, GatherPooling):
                assert layout is not None
                pooled = self._pooled(input_ids)
                features["sentence_embedding"] = module(features["token_embeddings"], layout, pooled)
            else:
                features = module(features)
        embedding: Tensor = features["sentence_embedding"]
        if self.truncate is not None:
            embedding = embedding[:, : self.truncate]
        return embedding, tokens

    def _pooled(self, input_ids: Tensor) -> Tensor:
        """Which tokens are pooled, bool [total]."""
        if self.prompt_flag:
            return torch.bitwise_and(input_ids, NOT_POOLED) == 0
        return torch.ones_like(input_ids, dtype=torch.bool)


def use_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Make a transformers model use packed attention, or the plain one that exporters understand."""
    model.set_attn_implementation(ATTENTION if attention == "packed" else "eager")
