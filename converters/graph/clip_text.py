"""The text side of a CLIP model of transformers: the vector of the end-of-text token, projected."""

from typing import Any

import torch
from torch import Tensor, nn

from converters.graph.packed_attention import Layout
from converters.graph.sentence_graph import TOKEN_VECTORS, Attention, Backbone, Inputs

_OLD_END = 2
"""The end-of-text id of old configurations, which is wrong: transformers takes the largest id instead."""


class _Embeddings(nn.Module):
    """Vectors of ids and positions; those of transformers refuse a row that is longer than one text."""

    def __init__(self, words: nn.Embedding, positions: nn.Embedding) -> None:
        super().__init__()
        self.token_embedding = words
        self.position_embedding = positions

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Return float32 [batch, length, H] for int64 [batch, length]; positions count from 0 by default."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1]).unsqueeze(0)
        vectors: Tensor = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        return vectors


class ClipText(Backbone):
    """A causal transformer of texts whose vector is that of the end-of-text token.

    Source: `CLIPTextModel` and `CLIPModel.get_text_features` of transformers.

    Args:
        model: The `CLIPTextModel`.
        projection: The linear layer after it.
        end_id: Its end-of-text token.
        inputs: As in `Backbone`.
        attention: As in `Backbone`.
    """

    def __init__(
        self, model: nn.Module, projection: nn.Module, end_id: int, inputs: Inputs, attention: Attention
    ) -> None:
        table: Any = model.embeddings
        model.embeddings = _Embeddings(table.token_embedding, table.position_embedding)
        super().__init__(model, inputs, attention)
        self.projection = projection
        self.end_id = end_id

    def forward(self, ids: Tensor, layout: Layout, types: Tensor | None = None) -> dict[str, Tensor]:
        """Return `sentence_embedding`, float32 [batch, D], for `ids`, int64 [total]."""
        tokens = super().forward(ids, layout, types)[TOKEN_VECTORS]
        padded = torch.where(layout.valid, layout.pad(ids), -1)
        end = padded.amax(1, keepdim=True) if self.end_id == _OLD_END else self.end_id
        place = torch.where(padded == end, torch.arange(layout.longest), layout.longest).amin(1)
        # Without an end-of-text token, transformers takes the first one.
        place = torch.where(place < layout.longest, place, 0)
        chosen = tokens.index_select(0, layout.lengths.cumsum(0) - layout.lengths + place)
        return {"sentence_embedding": self.projection(chosen)}
