"""Packed attention: texts of different lengths in one row, padded only inside attention.

transformers allows an attention function and the function that makes its mask to be registered under a
name. The functions of this module run on one row of all tokens, `[1, heads, total, d]`. They gather the row
to `[heads, batch, longest, d]`, attend, and gather it back. The mask of a layer (causal, sliding window,
two-sided window) comes from the architecture's own rule, so one function serves all of them.

They only use gathers: `index_add` and `scatter_add` become `ScatterND(reduction=add)`, which ONNX Runtime's
CPU kernel runs in parallel without synchronisation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from converters.graph import varlen
from converters.graph.varlen import CannotPack, Window

VECTOR = 16
"""Number of fp32 values in the widest vector register.

Kernels compute a row of attention in whole registers and the remainder with other instructions, which round
differently. The remainder's start depends on the longest text of the batch. Without a remainder, a text's
vector is the same to the last bit alone and in a batch. This also holds in bfloat16, where a single
different rounding is no longer small.
"""

ATTENTION = "packed"
"""Name under which the functions are registered with transformers."""

# Arguments of attention functions that do not change the result once the mask and the scale are given.
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


@dataclass(frozen=True)
class Layout:
    """Positions of the tokens of a packed batch.

    Attributes:
        longest: Length of the longest text, rounded up.
        lengths: int64 [batch].
        valid: bool [batch, longest], False for padding.
        tokens: int64 [batch, longest], the place of each token in the packed row. Padding has the place of
            its own text's last token: its weight is zero, but zero times NaN is NaN. With a token of another
            text, a text whose numbers are not finite would spoil the vectors of others.
        cells: int64 [total], the place of each packed token in a flattened [batch * longest].
        rows: int64 [total], the text of each token.
        positions: int64 [total], the place of each token in its text, from 0.
        bounds: Cumulative lengths from 0, int32 [batch + 1], for attention without padding (see `varlen`);
            None for attention with padding.
    """

    longest: int
    lengths: Tensor
    valid: Tensor
    tokens: Tensor
    cells: Tensor
    rows: Tensor
    positions: Tensor
    bounds: Tensor | None = None

    @classmethod
    def of(cls, lengths: Tensor, total: int, multiple: int = 1, places: Tensor | None = None) -> "Layout":
        """Make the layout of a batch.

        Args:
            lengths: Token counts of the texts, int64 [batch], all at least 1.
            total: Sum of `lengths`.
            multiple: `longest` is rounded up to a multiple of it.
            places: The numbers from 0 to `longest`, int64 [longest]; None computes them. A GPU would be
                waited for to compute `longest`, so the torch engine passes them, and attention is unpadded.
        """
        place = cls._places(lengths, multiple) if places is None else places
        longest = place.shape[0]
        ends = lengths.cumsum(0)
        starts = ends - lengths
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
            bounds=None if places is None else varlen.bounds(ends),
        )

    @staticmethod
    def _places(lengths: Tensor, multiple: int) -> Tensor:
        rounded = (lengths.max() + (multiple - 1)) // multiple * multiple
        # A symbolic number while the graph is traced; int() would make it a constant.
        longest: int = rounded.item()  # type: ignore[assignment]
        torch._check(longest >= 1)  # type: ignore[no-untyped-call]
        return torch.arange(longest)

    def pad(self, packed: Tensor, dim: int = 0) -> Tensor:
        """Replace the dimension `total` by the two `batch, longest`; padding repeats a text's last token."""
        # index_select becomes one Gather; indexing with a tensor becomes transpositions around a GatherND.
        chosen = packed.index_select(dim, self.tokens.flatten())
        before, after = packed.shape[:dim], packed.shape[dim + 1 :]
        return chosen.reshape(*before, self.lengths.shape[0], self.longest, *after)

    def pack(self, padded: Tensor, dim: int = 0) -> Tensor:
        """Replace the two dimensions `batch, longest`, of which `dim` is the first, by `total`."""
        return padded.flatten(dim, dim + 1).index_select(dim, self.cells)


class PackedAttention:
    """The pair of functions registered with transformers; they work only inside `on(layout)`."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._biases: list[Tensor] = []
        self._windows: list[Window] = []
        self._calls = 0

    @contextmanager
    def on(self, layout: Layout) -> Iterator[None]:
        """Set the layout of the batch on which a model runs inside the `with` block.

        Raises:
            CannotPack: On leaving the block, if the model did not call the attention function at all.
        """
        self._layout, self._biases, self._calls = layout, [], 0
        try:
            yield
            if not self._calls:
                raise CannotPack("its attention does not go through transformers' attention interface")
        finally:
            self._layout, self._biases = None, []

    def mask(self, *, mask_function: Callable[..., Tensor], **_: Any) -> Tensor:  # noqa: ANN401 - transformers passes shapes that do not hold here
        """Return the bias of one kind of layer: float32 [batch, longest, longest], far below zero if masked.

        Args:
            mask_function: The architecture's rule, which maps indices (batch, head, query, key) to bool.
        """
        layout = self._require_layout()
        if layout.bounds is not None:
            return self._window(mask_function)
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
        """Compute the self-attention of [1, heads, total, d]; returns float32 [1, total, heads, d].

        `key` and `value` may have fewer heads, each shared by a group of query heads.

        Raises:
            CannotPack: The model passes an option or a mask that this function does not support.
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
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if layout.bounds is not None:
            if softcap is not None:
                raise CannotPack("its attention caps its scores")
            kind = next(number for number, mark in enumerate(self._biases) if mark is attention_mask)
            states = (part[0].transpose(0, 1) for part in (query, key, value))
            own = varlen.attend(states, layout.bounds, layout.longest, self._windows[kind], scale)
            return own.unsqueeze(0), None
        # Scaling before padding affects fewer numbers. `pad` makes [heads, batch, longest, d].
        query = query * scale
        query, key, value = (layout.pad(states[0], 1) for states in (query, key, value))
        if (groups := query.shape[0] // key.shape[0]) > 1:
            query = query.reshape(key.shape[0], groups, *query.shape[1:])
            key, value = key.unsqueeze(1), value.unsqueeze(1)
        scores = query @ key.transpose(-1, -2)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        mixed = torch.softmax(scores + attention_mask, dim=-1) @ value
        if groups > 1:
            mixed = mixed.flatten(0, 1)
        return layout.pack(mixed, 1).transpose(0, 1).unsqueeze(0), None

    def _window(self, rule: Callable[..., Tensor]) -> Tensor:
        """Return a mark for one kind of layer, by which `attend` finds its window."""
        number = len(self._biases)
        if not torch.compiler.is_exporting():
            self._windows[number:] = [varlen.window_of(rule)]
        mark = torch.zeros(())
        self._biases.append(mark)
        return mark

    def _require_layout(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("packed attention was called outside of a packed batch")
        return self._layout


packed_attention = PackedAttention()
AttentionInterface.register(ATTENTION, packed_attention.attend)
AttentionMaskInterface.register(ATTENTION, packed_attention.mask)
