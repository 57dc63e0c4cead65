"""Packed attention: texts of different lengths one after another, padded only inside attention.

transformers lets an attention function and the function that makes its mask be registered under a
name. Ours run on one row of all tokens, `[1, heads, total, d]`: they gather it to
`[heads, batch, longest, d]`, attend, and gather back. The mask of a layer (causal, sliding window,
two-sided window) comes from the architecture's own rule, so one function serves them all.

Only gathers: `index_add` and `scatter_add` become `ScatterND(reduction=add)`, which ONNX Runtime's
CPU kernel runs in parallel without synchronisation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

VECTOR = 16
"""fp32 numbers in the widest vector register.

Kernels compute a row of attention in whole registers and its rest by other instructions, which round
otherwise; where the rest begins depends on the longest text of the batch. Without a rest, a text's
vector is the same to the last bit alone and among others, also in bfloat16, where rounding once
differently is no longer small.
"""

ATTENTION = "packed"
"""The name under which transformers knows the attention function."""

# Arguments of attention functions that leave the result as it is once the mask and the scale are given.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "deterministic",
        "dropout",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "position_ids",
        "return_dict",
        "sliding_window",
        "use_cache",
    }
)
_FAR_BELOW = torch.finfo(torch.float32).min / 2  # half, so that adding a score cannot reach -inf


class CannotPack(Exception):
    """The architecture does more in its attention than the packed function can."""


@dataclass(frozen=True)
class Layout:
    """Where each token of a packed batch is.

    longest: length of the longest text, rounded up. lengths: int64 [batch].
    valid: bool [batch, longest], False on padding.
    tokens: int64 [batch, longest], the place of each token in the packed row; on padding that of the text's
        own last token. Padding is weighed with zero, and zero times NaN is NaN: with another text's token
        there, one text whose numbers are not finite would spoil the vectors of others.
    cells: int64 [total], the place of each packed token in a flattened [batch * longest].
    rows, positions: int64 [total], the text of each token and its place in it, from 0.
    """

    longest: int
    lengths: Tensor
    valid: Tensor
    tokens: Tensor
    cells: Tensor
    rows: Tensor
    positions: Tensor

    @classmethod
    def of(cls, lengths: Tensor, total: int, multiple: int = 1) -> "Layout":
        """The layout of texts of `lengths` (int64 [batch], all at least 1) that sum to `total`.

        multiple: what `longest` is rounded up to.
        """
        rounded = (lengths.max() + (multiple - 1)) // multiple * multiple
        # A symbolic number while the graph is traced; int() would make it one number for ever.
        longest: int = rounded.item()  # type: ignore[assignment]
        torch._check(longest >= 1)  # type: ignore[no-untyped-call]
        ends = lengths.cumsum(0)
        starts = ends - lengths
        place = torch.arange(longest)
        index = torch.arange(total)
        rows = (index.unsqueeze(1) >= ends.unsqueeze(0)).to(torch.int64).sum(1)
        positions = index - starts.index_select(0, rows)
        return cls(
            longest=longest,
            lengths=lengths,
            valid=place.unsqueeze(0) < lengths.unsqueeze(1),
            tokens=torch.minimum(starts.unsqueeze(1) + place.unsqueeze(0), ends.unsqueeze(1) - 1),
            cells=rows * longest + positions,
            rows=rows,
            positions=positions,
        )

    def pad(self, packed: Tensor, dim: int = 0) -> Tensor:
        """Make of the dimension `total` the two `batch, longest`; padding repeats a text's last token."""
        # index_select becomes one Gather; indexing with a tensor becomes transpositions around a GatherND.
        chosen = packed.index_select(dim, self.tokens.flatten())
        before, after = packed.shape[:dim], packed.shape[dim + 1 :]
        return chosen.reshape(*before, self.lengths.shape[0], self.longest, *after)

    def pack(self, padded: Tensor, dim: int = 0) -> Tensor:
        """Make of the two dimensions `batch, longest`, from `dim` on, the one `total`."""
        return padded.flatten(dim, dim + 1).index_select(dim, self.cells)


class PackedAttention:
    """The pair of functions registered with transformers; works inside `on(layout)` only."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._biases: list[Tensor] = []
        self._calls = 0

    @contextmanager
    def on(self, layout: Layout) -> Iterator[None]:
        """Run a model on a batch of this layout.

        Raises:
            CannotPack: on leaving, if the model did not use the attention function at all.
        """
        self._layout, self._biases, self._calls = layout, [], 0
        try:
            yield
            if not self._calls:
                raise CannotPack("its attention does not go through transformers' attention interface")
        finally:
            self._layout, self._biases = None, []

    def mask(self, *, mask_function: Callable[..., Tensor], **_: Any) -> Tensor:  # noqa: ANN401 - transformers passes shapes that do not hold here
        """The bias of one kind of layer: float32 [batch, longest, longest], far below zero where masked.

        mask_function: the architecture's rule, (batch, head, query, key) to bool, on indices.
        """
        layout = self._require_layout()
        batch = torch.arange(layout.lengths.shape[0]).view(-1, 1, 1, 1)
        place = torch.arange(layout.longest)
        allowed = mask_function(
            batch,
            torch.zeros(1, 1, 1, 1, dtype=torch.int64),
            place.view(1, 1, -1, 1),
            place.view(1, 1, 1, -1),
        )
        allowed = (allowed & layout.valid[:, None, None, :])[:, 0]
        bias = torch.where(allowed, 0.0, _FAR_BELOW)
        self._biases.append(bias)
        return bias

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **options: object,
    ) -> tuple[Tensor, None]:
        """Attention of [1, heads, total, d] on itself: float32 [1, total, heads, d].

        `key` and `value` may have fewer heads, each shared by a group of query heads.

        Raises:
            CannotPack: an option or a mask that this function does not know.
        """
        del module
        layout = self._require_layout()
        self._calls += 1
        unknown = sorted(
            name for name, given in options.items() if given is not None and name not in _WITHOUT_EFFECT
        )
        if unknown:
            raise CannotPack(f"its attention takes {', '.join(unknown)}")
        if not any(attention_mask is bias for bias in self._biases):
            raise CannotPack("its attention takes a mask of its own making")
        assert attention_mask is not None
        # Scaled before padding: fewer numbers. Then [1, heads, total, d] to [heads, batch, longest, d].
        query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        query, key, value = (layout.pad(states[0], 1) for states in (query, key, value))
        groups = query.shape[0] // key.shape[0]
        if groups > 1:
            query = query.reshape(key.shape[0], groups, *query.shape[1:])
            key, value = key.unsqueeze(1), value.unsqueeze(1)
        scores = query @ key.transpose(-1, -2)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        mixed = torch.softmax(scores + attention_mask, dim=-1) @ value
        if groups > 1:
            mixed = mixed.flatten(0, 1)
        return layout.pack(mixed, 1).transpose(0, 1).unsqueeze(0), None

    def _require_layout(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("packed attention was called outside of a packed batch")
        return self._layout


packed_attention = PackedAttention()
AttentionInterface.register(ATTENTION, packed_attention.attend)
AttentionMaskInterface.register(ATTENTION, packed_attention.mask)
