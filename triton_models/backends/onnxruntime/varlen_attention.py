"""Attention over one row of all tokens, as an operation of torch: `embedding_server::varlen_attention`.

The converter traces it into `packed.json`, and the torch engine runs it. It imports torch.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

HEAD_MULTIPLE = 8
"""The size of a head must be a multiple of this, as the CUDA kernel asks."""


@torch.library.custom_op("embedding_server::varlen_attention", mutates_args=(), device_types="cpu")
def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    left: int,
    right: int,
    scale: float,
) -> Tensor:
    """Attend within each text. This is the exact reference for the CPU, text by text.

    Args:
        query: [total, heads, d].
        key: [total, groups, d]; each group serves heads / groups heads.
        value: [total, groups, d].
        bounds: Cumulative lengths from 0, int32 [batch + 1]; a text may be empty.
        longest: No text is longer.
        left: Tokens before its own that a token attends to; -1 for all.
        right: Tokens after its own that a token attends to; -1 for all.
        scale: Factor of the scores.

    Returns:
        [total, heads, d] in the dtype of `query`.
    """
    del longest
    mixed = torch.empty_like(query)
    for start, end in pairwise(bounds.tolist()):
        place = torch.arange(end - start)
        ahead = place.unsqueeze(0) - place.unsqueeze(1)
        allowed = (ahead >= (-left if left >= 0 else -end)) & (ahead <= (right if right >= 0 else end))
        own = [part[start:end].transpose(0, 1).unsqueeze(0) for part in (query, key, value)]
        found = functional.scaled_dot_product_attention(
            own[0], own[1], own[2], attn_mask=allowed, scale=scale, enable_gqa=True
        )
        mixed[start:end] = found[0].transpose(0, 1)
    return mixed


@varlen_attention.register_kernel("cuda")
def _on_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    left: int,
    right: int,
    scale: float,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Older versions of torch lack the argument.
    options: Any = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    options |= {"scale": scale, "window_size": (left, right)}
    try:
        mixed: Any = varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
    except TypeError as error:
        raise RuntimeError(f"this version of torch is too old: {error}") from error
    found: Tensor = mixed
    return found


@varlen_attention.register_fake
def _shape(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    left: int,
    right: int,
    scale: float,
) -> Tensor:
    del key, value, bounds, longest, left, right, scale
    return torch.empty_like(query)
