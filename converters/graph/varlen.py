"""Packed attention without any padding, for the torch engine: each layer's mask as a window.

The operation takes windows and no masks, so the architecture's rule of a mask is read as a window. That needs
values, which do not exist while a graph is traced. A run before the tracing finds them.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from triton_models.backends.onnxruntime.varlen_attention import HEAD_MULTIPLE, varlen_attention

Window = tuple[int, int]
"""Tokens before and after its own that a token attends to; -1 for all."""

CAUSAL: Window = (-1, 0)

_FURTHEST = 1 << 17
"""A window that reaches this far has no end; no model takes longer texts."""
_QUERIES = 64


class CannotPack(Exception):
    """The architecture's attention does more than the packed function supports."""


def window_of(rule: Callable[..., Tensor]) -> Window:
    """Return the window of a mask's rule, which maps indices (batch, head, query, key) to bool.

    Raises:
        CannotPack: The rule is not that of a window.
    """
    places = torch.arange(_FURTHEST)
    queries = torch.cat([places[:_QUERIES], places[[_FURTHEST // 2, -1]]])
    none = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    allowed = rule(none, none, queries.view(1, 1, -1, 1), places.view(1, 1, 1, -1))
    ahead = places.unsqueeze(0) - queries.unsqueeze(1)
    allowed = torch.broadcast_to(allowed, (1, 1, *ahead.shape))[0, 0]
    left, right = -int(ahead[allowed].min()), int(ahead[allowed].max())
    if not torch.equal(allowed, (ahead >= -left) & (ahead <= right)):
        raise CannotPack("its attention's mask is not a window")
    return -1 if left == _FURTHEST - 1 else left, -1 if right == _FURTHEST - 1 else right


def bounds(ends: Tensor) -> Tensor:
    """Return cumulative lengths from 0, int32 [batch + 1], for those of int64 [batch]."""
    return functional.pad(ends, (1, 0)).to(torch.int32)


def attend(states: Iterable[Tensor], bounds: Tensor, longest: int, window: Window, scale: float) -> Tensor:
    """Return the attention within each text, [total, heads, d].

    Args:
        states: Query, key and value, [total, heads, d]; the last two may have fewer heads.
        bounds: From the function of this name.
        longest: No text is longer.
        window: Tokens that each one attends to.
        scale: Factor of the scores.

    Raises:
        CannotPack: The kernel does not take heads of this size.
    """
    query, key, value = states
    width = query.shape[-1]
    if width % HEAD_MULTIPLE or value.shape[-1] != width:
        raise CannotPack(f"its heads have {width} numbers, which is no multiple of {HEAD_MULTIPLE}")
    mixed: Tensor = varlen_attention(query, key, value, bounds, longest, *window, scale)
    return mixed
