"""Pooling of token vectors to one vector per text, as in sentence-transformers' `Pooling`.

The library's module works on padded batches with one prompt length for all texts. This one works on packed
tokens with a flag per token that says whether it is pooled. Formulas:
`sentence_transformers...modules.pooling`.
"""

import torch
from torch import Tensor, nn

from converters.graph.packed_attention import Layout

LARGEST = 3e38
"""Largest number that counts as finite; slightly larger ones become inf in bfloat16."""

# The library's own guard against division by zero when no token is pooled.
_LEAST = 1e-9


class GatherPooling(nn.Module):
    """Pooling layer made of gathers; the vectors of its modes are concatenated in their order."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, tokens: Tensor, layout: Layout, pooled: Tensor) -> Tensor:
        """Pool token vectors.

        Args:
            tokens: float32 [total, H].
            layout: Layout of the batch.
            pooled: bool [total], False for tokens that are left out, such as a prompt.

        Returns:
            float32 [batch, H * modes].
        """
        mask = layout.pad(pooled) & layout.valid
        return torch.cat([self._pool(mode, tokens, layout, mask) for mode in self.modes], dim=-1)

    def _pool(self, mode: str, tokens: Tensor, layout: Layout, mask: Tensor) -> Tensor:
        """Pool in one mode; mask: bool [batch, longest]."""
        place = torch.arange(layout.longest)
        if mode == "cls":
            # The first pooled token, or the first token if none is pooled.
            first = torch.where(mask, place, layout.longest).amin(1)
            return self._at(tokens, layout, torch.where(first < layout.longest, first, 0))
        if mode == "lasttoken":
            last = torch.where(mask, place, -1).amax(1)
            chosen = self._at(tokens, layout, last.clamp(min=0))
            return chosen * (last >= 0).to(tokens.dtype).unsqueeze(1)
        padded = layout.pad(tokens)
        if mode == "max":
            return padded.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)
        weights = mask.to(tokens.dtype)
        if mode == "weightedmean":
            weights = weights * (place + 1).to(tokens.dtype)
        total = (weights.unsqueeze(1) @ padded).squeeze(1)
        count = weights.sum(1, keepdim=True).clamp(min=_LEAST)
        return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)

    @staticmethod
    def _at(tokens: Tensor, layout: Layout, position: Tensor) -> Tensor:
        """Return the token vector at `position` (int64 [batch]) of each text, [batch, H]."""
        return tokens.index_select(0, layout.lengths.cumsum(0) - layout.lengths + position)


class WordPooling(GatherPooling):
    """Pooling of the vectors of words, which know nothing of the words beside them.

    Most modes are one matrix product without padding: texts may have no maximum length, and with padding one
    long text among many short ones would multiply the memory. The product weights all words in every row,
    most of them with zero, and zero times NaN is NaN. Words whose vector is not finite are therefore zeros in
    the product, and texts that contain one are marked afterwards.
    """

    UNPADDED = frozenset({"mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"})

    def _pool(self, mode: str, tokens: Tensor, layout: Layout, mask: Tensor) -> Tensor:
        """Pool in one mode; mask: bool [batch, longest], which must be that of the layout."""
        if mode == "lasttoken":
            return self._at(tokens, layout, layout.lengths - 1)
        batch = torch.arange(layout.lengths.shape[0]).unsqueeze(1)
        within = (batch == layout.rows.unsqueeze(0)).to(tokens.dtype)
        sound = (tokens.abs() <= LARGEST).all(1, keepdim=True)
        clean = torch.where(sound, tokens, 0.0)
        if mode in self.UNPADDED:
            weights = within * (layout.positions + 1).to(tokens.dtype) if mode == "weightedmean" else within
            count = weights.sum(1, keepdim=True)
            pooled = weights @ clean / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)
        else:
            pooled = super()._pool(mode, clean, layout, mask)
        flaws = within @ (~sound).to(tokens.dtype)
        return torch.where(flaws == 0, pooled, torch.nan)


class LayerMean(nn.Module):
    """Weighted mean of a token's vectors in a transformer's layers.

    Source: `WeightedLayerPooling` of sentence-transformers.

    Args:
        weights: float32 [layers - start].
        start: Number of layers that are left out; layer 0 is the vectors of the words.
    """

    def __init__(self, weights: Tensor, start: int) -> None:
        super().__init__()
        self.start = start
        self.weights: Tensor
        self.register_buffer("weights", weights.clone())

    def forward(self, layers: Tensor) -> Tensor:
        """Return float32 [total, H] for float32 [layers, total, H]."""
        weighted = self.weights.reshape(-1, 1, 1) * layers[self.start :]
        return weighted.sum(0) / self.weights.sum()
