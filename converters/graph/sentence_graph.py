"""The whole model as one module with the signature of the model contract.

    input_ids int64 [total], item_shape int32 [batch, 1]
        ->  sentence_embedding float32 [batch, D], token_embeddings float32 [total, H]

Independent of files, tokenizers and ONNX.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from converters.graph.experts import use_every_expert
from converters.graph.packed_attention import ATTENTION, VECTOR, Layout, packed_attention
from converters.graph.pooling import LARGEST, GatherPooling, LayerMean
from converters.graph.words import WordCounts, WordTable
from triton_models.contract.tokens import NOT_POOLED, ROUTED, TOKEN_ID_BITS

Attention = Literal["packed", "padded", "none"]


TOKEN_VECTORS, LAYERS = "token_embeddings", "all_layer_embeddings"
"""sentence-transformers' names of the vectors of tokens, after the last layer and after each."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of the backbone in addition to ids and mask.

    Attributes:
        token_types: Whether token types are passed; all are 0 unless they are given.
        positions: Whether position ids are passed.
        padding_id: Positions count from this id plus one and skip tokens with this id (RoBERTa); None if
            they count from 0.
        pad_id: Id of padding tokens.
    """

    token_types: bool
    positions: bool
    padding_id: int | None
    pad_id: int


class Backbone(nn.Module):
    """A transformer that runs on one row of all tokens (packed), or on padding made inside the graph.

    Args:
        model: The transformer.
        inputs: Its inputs.
        attention: `packed` or `padded`.
        layers: Whether the hidden states of all layers are returned too.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, attention: Attention, layers: bool = False) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.packed = attention == "packed"
        self.layers = layers

    def forward(self, ids: Tensor, layout: Layout, types: Tensor | None = None) -> dict[str, Tensor]:
        """Return the vectors of the tokens `ids`, int64 [total], whose types are int64 [total] or all 0.

        Returns:
            `token_embeddings`, float32 [total, H], and `all_layer_embeddings`, float32 [layers, total, H], if
            they are asked for.
        """
        if self.packed:
            positions = self._positions(ids, layout).unsqueeze(0) if self.inputs.positions else None
            with packed_attention.on(layout):
                row = None if types is None else types.unsqueeze(0)
                found = [states[0] for states in self._run(ids.unsqueeze(0), layout.valid, positions, row)]
        else:
            padded = torch.where(layout.valid, layout.pad(ids), self.inputs.pad_id)
            of_padded = None if types is None else layout.pad(types)
            # Padding comes last, so the model's own positions are right and need not be passed.
            found = [layout.pack(states) for states in self._run(padded, layout.valid, None, of_padded)]
        # The modules that follow compute in fp32, also after a transformer in half precision.
        found = [states.to(torch.float32) for states in found]
        features = {TOKEN_VECTORS: found[0]}
        return {**features, LAYERS: torch.stack(found[1:])} if self.layers else features

    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor | None, types: Tensor | None) -> list[Tensor]:
        """Return the last hidden state, and those of all layers if they are asked for."""
        options: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.to(torch.int64),
            "return_dict": True,
        }
        if positions is not None:
            options["position_ids"] = positions
        if self.inputs.token_types:
            options["token_type_ids"] = torch.zeros_like(ids) if types is None else types
        if self.layers:
            options["output_hidden_states"] = True
        output = self.model(**options)
        return [output.last_hidden_state, *(output.hidden_states if self.layers else ())]

    def _positions(self, ids: Tensor, layout: Layout) -> Tensor:
        """Return position ids, int64 [total].

        Source: `create_position_ids_from_input_ids` of transformers' RoBERTa.
        """
        if self.inputs.padding_id is None:
            return layout.positions
        counted = (ids != self.inputs.padding_id).to(torch.int64)
        running = counted.cumsum(0)
        before_row = (running - counted).index_select(0, layout.tokens[:, 0])
        return (running - before_row.index_select(0, layout.rows)) * counted + self.inputs.padding_id


class StaticMean(nn.Module):
    """Static token vectors, float32 [total, H], and their mean over each text, float32 [batch, H].

    The means are one matrix product, without padding: static models have no maximum length, and with padding
    one long text among many short ones would multiply the memory. The product weights all tokens in every
    row, most of them with zero, and zero times NaN is NaN. Words whose vector is not finite are therefore
    zeros in the product, and texts that contain one are marked afterwards. The last row of the table is such
    a word, see `plant`.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        sound = (weight.abs() <= LARGEST).all(1)
        self.has_flaws = not bool(sound.all())
        table = torch.where(sound.unsqueeze(1), weight, 0.0) if self.has_flaws else weight
        table = torch.cat([table, torch.zeros_like(table[:1])])
        self.embedding = nn.Embedding(table.shape[0], table.shape[1], _weight=table)
        self.flaws: Tensor
        self.register_buffer("flaws", torch.cat([~sound, torch.ones(1, dtype=torch.bool)]).to(torch.int64))

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of `ids` (int64 [total]), and their mean over each text."""
        ends = lengths.cumsum(0)
        starts = ends - lengths
        place = torch.arange(ids.shape[0]).unsqueeze(0)
        within = (place < ends.unsqueeze(1)) & (place >= starts.unsqueeze(1))
        vectors: Tensor = self.embedding(ids)
        mean = within.to(vectors.dtype) @ vectors / lengths.unsqueeze(1)
        flaws = self.flaws.index_select(0, ids)
        # Running sums of integers count these words at the cost of a few numbers per text.
        running = flaws.cumsum(0)
        before = running.index_select(0, starts) - flaws.index_select(0, starts)
        is_sound = (running.index_select(0, ends - 1) == before).unsqueeze(1)
        if self.has_flaws:
            vectors = torch.where(flaws.unsqueeze(1) == 0, vectors, torch.nan)
        return vectors, torch.where(is_sound, mean, torch.nan)


First = Backbone | StaticMean | WordTable | WordCounts
"""Kinds of the first module."""


@dataclass(frozen=True)
class Tails:
    """The modules after the first one, in their order.

    They are modules of sentence-transformers that read and write a dict of features, and those of `pooling`.

    Attributes:
        modules: Those of texts that are not marked.
        routed: Those of texts marked ROUTED; None if no text is.
    """

    modules: Sequence[nn.Module]
    routed: Sequence[nn.Module] | None = None

    def all(self) -> list[nn.Module]:
        """Return the modules of both."""
        return [*self.modules, *(self.routed or ())]


class SentenceGraph(nn.Module):
    """The graph from ids to embeddings of sentences and tokens; see the head of this file.

    Args:
        first: The first module.
        tails: The modules after it.
        truncate: Number of leading dimensions to keep; None keeps all.
        prompt_flag: Whether tokens marked NOT_POOLED are left out of pooling.
    """

    def __init__(self, first: First, tails: Tails, truncate: int | None, prompt_flag: bool) -> None:
        super().__init__()
        self.first = first
        self.after = nn.ModuleList(tails.modules)
        self.routed = None if tails.routed is None else nn.ModuleList(tails.routed)
        self.truncate = truncate
        self.prompt_flag = prompt_flag

    def forward(
        self, input_ids: Tensor, item_shape: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return float32 [batch, D] and [total, H] for int64 [total] and int32 [batch, 1].

        The torch engine passes `places`, see `Layout.of`.
        Counts of words and texts of CLIP have no vectors of tokens to return.
        """
        # A bit mask and not Mod: OpenVINO computes Mod in fp32, which confuses ids.
        ids = torch.bitwise_and(input_ids, (1 << TOKEN_ID_BITS) - 1)
        lengths = item_shape.reshape(-1).to(torch.int64)
        layout = tokens = None
        if isinstance(self.first, StaticMean):
            # The library has no vectors of tokens here: no module changes these.
            tokens, mean = self.first(ids, lengths)
            features = {"sentence_embedding": mean}
        elif isinstance(self.first, WordCounts):
            features = {"sentence_embedding": self.first(ids, lengths)}
        else:
            layout = Layout.of(lengths, ids.shape[0], VECTOR if self.first.packed else 1, places)
            features = self.first(ids, layout)
            tokens = features.get(TOKEN_VECTORS)
        found = self._after(self.after, features, input_ids, layout, tokens)
        if self.routed is None:
            return found
        others = self._after(self.routed, features, input_ids, layout, tokens)
        is_other = torch.bitwise_and(input_ids, ROUTED) != 0
        of_texts = is_other.index_select(0, lengths.cumsum(0) - 1)
        return tuple(
            torch.where(chosen.unsqueeze(1), other, own)
            for chosen, other, own in zip((of_texts, is_other), others, found, strict=False)
        )

    def _after(
        self,
        modules: nn.ModuleList,
        features: dict[str, Tensor],
        input_ids: Tensor,
        layout: Layout | None,
        tokens: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return what `forward` returns, after the given modules."""
        features = dict(features)
        for module in modules:
            if isinstance(module, GatherPooling):
                assert layout is not None
                pooled = self._pooled(input_ids)
                features["sentence_embedding"] = module(features[TOKEN_VECTORS], layout, pooled)
            elif isinstance(module, LayerMean):
                features[TOKEN_VECTORS] = module(features[LAYERS])
            elif hasattr(module, "activation_function"):
                features = _dense(module, features)
            else:
                features = module(features)
        embedding: Tensor = features["sentence_embedding"]
        if self.truncate is not None:
            embedding = embedding[:, : self.truncate]
        # Modules may change the vectors of tokens too, before or after the pooling.
        given = features.get(TOKEN_VECTORS, tokens)
        return (embedding,) if given is None else (embedding, given)

    def _pooled(self, input_ids: Tensor) -> Tensor:
        """Return a mask of the tokens that are pooled, bool [total]."""
        if self.prompt_flag:
            return torch.bitwise_and(input_ids, NOT_POOLED) == 0
        return torch.ones_like(input_ids, dtype=torch.bool)


def _dense(module: Any, features: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ANN401 - sentence-transformers' Dense
    """Run the module and return NaN where its input is not finite."""
    given = features[module.module_input_name].mean(-1, keepdim=True)
    features = module(features)
    name = module.module_output_name
    # OpenVINO's ReLU turns NaN into 0, and tanh turns inf into 1. `given - given` is 0, or else NaN.
    return {**features, name: features[name] + (given - given)}


def plant(model: nn.Module, table: nn.Embedding) -> int:
    """Add a row of NaN to a model's table of word vectors, and return the id of that row.

    No text contains the id. The checks send it among other texts, whose vectors must not change.
    """
    weight = table.weight
    flaw = torch.full_like(weight[:1], torch.nan)
    planted = nn.Parameter(torch.cat([weight.detach(), flaw]), requires_grad=False)
    for module in model.modules():
        # T5 has one table in two places.
        if isinstance(module, nn.Embedding) and module.weight is weight:
            module.weight = planted
    return weight.shape[0]


def use_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Make a transformers model use packed attention, or the eager one, and experts that can be exported."""
    use_every_expert(model)
    model.set_attn_implementation(ATTENTION if attention == "packed" else "eager")
