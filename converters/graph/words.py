"""Lists of words: a vector for each word, or the number of times that a text holds each word."""

import torch
from torch import Tensor, nn

from converters.graph.packed_attention import Layout


class WordTable(nn.Module):
    """Vectors of words, as in sentence-transformers' `WordEmbeddings`."""

    packed = False

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.embedding = table

    def forward(self, ids: Tensor, layout: Layout) -> dict[str, Tensor]:
        """Return `token_embeddings`, float32 [total, H], of `ids`, int64 [total]."""
        del layout
        return {"token_embeddings": self.embedding(ids)}


class WordCounts(nn.Module):
    """Weighted counts of the words of a text, as in sentence-transformers' `BoW`.

    Adding up by `scatter_add` is no option, see `packed_attention`. The pairs of text and word are sorted
    instead, and a count is the distance from the first of equal pairs to the last.

    Args:
        weights: float32 [V], one for each word.
        cumulative: Whether a word counts as often as it occurs, or once.
    """

    def __init__(self, weights: Tensor, cumulative: bool) -> None:
        super().__init__()
        self.cumulative = cumulative
        self.weights: Tensor
        self.register_buffer("weights", weights)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return float32 [batch, V] for `ids`, int64 [total]; the id V stands for a word without a weight."""
        width = self.weights.shape[0] + 1
        size = lengths.shape[0] * width
        place = torch.arange(ids.shape[0])
        rows = (place.unsqueeze(1) >= lengths.cumsum(0).unsqueeze(0)).to(torch.int64).sum(1)
        pairs = (rows * width + ids).sort().values
        edge = torch.full_like(pairs[:1], -1)
        is_first = pairs != torch.cat([edge, pairs[:-1]])
        is_last = pairs != torch.cat([pairs[1:], edge])
        # All other pairs go to a place at the end, which is cut off. No place before it is written twice.
        counts = torch.zeros(size + 1, dtype=torch.int64)
        after_last = counts.scatter(0, torch.where(is_last, pairs, size), place + 1)
        first = counts.scatter(0, torch.where(is_first, pairs, size), place)
        found = (after_last - first)[:size].reshape(-1, width)
        if not self.cumulative:
            found = found.clamp(max=1)
        # Zero times a weight that is not finite is NaN.
        counted = torch.where(found[:, :-1] > 0, found[:, :-1].to(self.weights.dtype) * self.weights, 0.0)
        return torch.where(found[:, -1:] == 0, counted, torch.nan)
