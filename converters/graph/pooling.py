"""Pooling of token vectors to one vector per text, as in sentence-transformers' `Pooling`.

The library's module works on padded batches with one prompt length for all texts. This one works on packed
tokens with a flag per token that says whether it is pooled. Formulas:
`sentence_transformers...modules.pooling`.
"""

import torch
from torch import Tensor, nn

from converters.graph.packed_attention import Layout

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
