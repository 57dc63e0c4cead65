"""Text tower of a CLIP model as one module with the signature of the model contract.

    input_ids int64 [total], item_shape int32 [batch, 1]  ->  sentence_embedding float32 [batch, D]

There are three ways to compute it; the first one that a tower allows is used:

    packed   the tower is causal and pooled at end-of-text: later tokens cannot affect that token, so they
             are not sent; only attention is padded
    padded   the tower masks its padding (towers of transformers): the graph pads to the longest text
    fixed    the tower attends to its padding, or is pooled where padding can be: every text has full length

Independent of files, tokenizers and ONNX.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from converters.graph import varlen
from converters.graph.packed_attention import VECTOR, Layout
from converters.graph.sentence_graph import use_attention
from triton_models.contract.tokens import TOKEN_ID_BITS

_FAR_BELOW = torch.finfo(torch.float32).min / 2  # half, so that adding a score cannot reach -inf


@dataclass(frozen=True)
class TextPlan:
    """The chosen way to compute the tower, and the reason for it, which the manifest records.

    Attributes:
        how: One of the three ways at the head of this file.
        reason: The reason for it, a clause.
        graph: The tower as a module with the signature at the head of this file.
        fixed_length: Tokens to which every row is padded; None for rows of any length.
    """

    how: Literal["packed", "padded", "fixed"]
    reason: str
    graph: nn.Module
    fixed_length: int | None


def packed(model: nn.Module, *, normalize: bool) -> TextPlan | None:
    """Return the plan for a causal tower with end-of-text pooling; None for any other tower.

    Args:
        model: The whole CLIP model.
        normalize: Whether `encode_text` gives vectors of unit length.
    """
    tower: Any = getattr(model, "text", model)
    mask = getattr(tower, "attn_mask", None)
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    is_plain = len(blocks) > 0 and all(
        type(block) is ResidualAttentionBlock
        and isinstance(block.attn, nn.MultiheadAttention)
        and block.attn.in_proj_weight is not None
        for block in blocks
    )
    if not is_plain or mask is None or pooling not in ("argmax", "eos"):
        return None
    if getattr(tower, "cls_emb", None) is not None or not torch.equal(mask, _causal(mask.shape[0])):
        return None
    reason = "it is causal and pooled at end-of-text: what follows that token is neither sent nor computed"
    return TextPlan("packed", reason, PackedText(tower, pooling, normalize=normalize).eval(), None)


def unpacked(model: nn.Module, context_length: int, separator: int | None, *, normalize: bool) -> TextPlan:
    """Return the plan for any tower.

    Args:
        model: The whole CLIP model.
        context_length: Tokens to which open_clip pads every text.
        separator: An id that open_clip replaces by 0; None if there is none.
        normalize: Whether `encode_text` gives vectors of unit length.
    """
    tower = getattr(model, "text", None)
    text_only = without(model, "visual", "text_decoder")
    if isinstance(tower, HFTextEncoder):
        use_attention(tower.transformer, "padded")
        if separator is None:
            pad_id = int(tower.config.pad_token_id)
            graph = PaddedText(tower, pad_id, context_length, normalize=normalize)
            return TextPlan("padded", "it masks its padding, which is made in the graph", graph.eval(), None)
    fixed = FixedText(text_only, context_length, separator)
    return TextPlan("fixed", "it attends to its padding", fixed.eval(), context_length)


def word_table(model: nn.Module) -> nn.Embedding:
    """Return the table of the text tower's token vectors."""
    tower: Any = getattr(model, "text", model)
    table: nn.Embedding = (
        tower.transformer.get_input_embeddings()
        if isinstance(tower, HFTextEncoder)
        else tower.token_embedding
    )
    return table


def without(model: nn.Module, *names: str) -> nn.Module:
    """Return a copy of the model that shares its weights but lacks the named modules."""
    copied = copy.copy(model)
    copied._modules = {name: module for name, module in model._modules.items() if name not in names}
    return copied


class PackedText(nn.Module):
    """open_clip's `encode_text` of a causal tower, computed over one row of all tokens."""

    def __init__(self, tower: Any, pooling: str, *, normalize: bool) -> None:  # noqa: ANN401 - CLIP or TextTransformer
        super().__init__()
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.blocks = nn.ModuleList(tower.transformer.resblocks)
        self.ln_final = tower.ln_final
        self.projection = tower.text_projection
        self.end_of_text = None
        if pooling == "eos":
            self.end_of_text = int(getattr(tower, "text_eos_id", getattr(tower, "eos_id", 0)))
        self.normalize = normalize

    def forward(self, input_ids: Tensor, item_shape: Tensor, places: Tensor | None = None) -> Tensor:
        """Return float32 [batch, D] for int64 [total] and int32 [batch, 1].

        The torch engine passes `places`, see `Layout.of`.
        """
        ids = torch.bitwise_and(input_ids, (1 << TOKEN_ID_BITS) - 1)
        layout = Layout.of(item_shape.reshape(-1).to(torch.int64), ids.shape[0], VECTOR, places)
        place = torch.arange(layout.longest)
        allowed = (place.unsqueeze(0) <= place.unsqueeze(1)) & layout.valid[:, None, :]
        bias = torch.where(allowed, 0.0, _FAR_BELOW).unsqueeze(1)
        states = self.token_embedding(ids) + self.positional_embedding.index_select(0, layout.positions)
        block: Any
        for block in self.blocks:
            states = states + block.ls_1(_attention(block.attn, block.ln_1(states), layout, bias))
            states = states + block.ls_2(block.mlp(block.ln_2(states)))
        starts = layout.lengths.cumsum(0) - layout.lengths
        vectors = self.ln_final(states.index_select(0, starts + self._pooled(ids, layout)))
        if isinstance(self.projection, nn.Linear):
            vectors = self.projection(vectors)
        elif self.projection is not None:
            vectors = vectors @ self.projection
        vectors = vectors.to(torch.float32)
        return functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def _pooled(self, ids: Tensor, layout: Layout) -> Tensor:
        """Return the place of end-of-text in each row, int64 [batch].

        It is the first token with the id of end-of-text, or with the greatest id. argmax is not used: a text
        may spell the token out, and engines differ in which of several maxima they take.
        """
        padded = torch.where(layout.valid, layout.pad(ids), -1)
        wanted = padded.amax(1, keepdim=True) if self.end_of_text is None else self.end_of_text
        first = torch.where(padded == wanted, torch.arange(layout.longest), layout.longest).amin(1)
        return torch.where(first < layout.longest, first, 0)


def _attention(attention: nn.MultiheadAttention, states: Tensor, layout: Layout, bias: Tensor) -> Tensor:
    """Return the self-attention of float32 [total, E]; bias: float32 [batch, 1, longest, longest]."""
    heads, width = attention.num_heads, attention.head_dim
    projected = functional.linear(states, attention.in_proj_weight, attention.in_proj_bias)
    if layout.bounds is not None:
        parts = projected.reshape(-1, 3, heads, width).unbind(1)
        unpadded = varlen.attend(parts, layout.bounds, layout.longest, varlen.CAUSAL, width**-0.5)
        found: Tensor = attention.out_proj(unpadded.flatten(1))
        return found
    # From [total, 3 E] to [3, batch, heads, longest, d].
    padded = layout.pad(projected)
    padded = padded.reshape(*padded.shape[:2], 3, heads, width).permute(2, 0, 3, 1, 4)
    query, key, value = padded[0] * width**-0.5, padded[1], padded[2]
    mixed = torch.softmax(query @ key.transpose(-1, -2) + bias, dim=-1) @ value
    joined: Tensor = attention.out_proj(layout.pack(mixed.transpose(1, 2).flatten(2)))
    return joined


class PaddedText(nn.Module):
    """A tower of transformers, which masks its padding id, padded to the longest text of a batch."""

    def __init__(self, tower: HFTextEncoder, pad_id: int, most: int, *, normalize: bool) -> None:
        super().__init__()
        self.tower = tower
        self.pad_id = pad_id
        self.most = most
        self.normalize = normalize

    def forward(self, input_ids: Tensor, item_shape: Tensor) -> Tensor:
        """Same as `PackedText.forward`."""
        ids = torch.bitwise_and(input_ids, (1 << TOKEN_ID_BITS) - 1)
        layout = Layout.of(item_shape.reshape(-1).to(torch.int64), ids.shape[0])
        # M2M100 compares the length with its table of positions, which the trace decides by this limit.
        torch._check(layout.longest <= self.most)  # type: ignore[no-untyped-call]
        vectors = first_of(self.tower(torch.where(layout.valid, layout.pad(ids), self.pad_id)))
        return functional.normalize(vectors, dim=-1) if self.normalize else vectors


class FixedText(nn.Module):
    """The model's own `encode_text` over rows of one length."""

    def __init__(self, model: nn.Module, length: int, separator: int | None) -> None:
        super().__init__()
        self.model = model
        self.length = length
        self.separator = separator

    def forward(self, input_ids: Tensor, item_shape: Tensor) -> Tensor:
        """Same as `PackedText.forward`."""
        ids = torch.bitwise_and(input_ids, (1 << TOKEN_ID_BITS) - 1)
        if self.separator is not None:
            ids = torch.where(ids == self.separator, 0, ids)
        rows = ids.reshape(item_shape.shape[0], self.length)
        vectors: Tensor = self.model.encode_text(rows)  # type: ignore[operator]
        return vectors


def first_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the vectors of a tower whose output may also contain those of its tokens."""
    return output[0] if isinstance(output, tuple) else output


def _causal(size: int) -> Tensor:
    return torch.full((size, size), float("-inf")).triu_(1)
