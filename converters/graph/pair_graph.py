"""A cross-encoder as one module with the signature of the model contract.

    input_ids int64 [total], item_shape int32 [batch, 1]  ->  scores float32 [batch, labels], the logits

The transformer runs packed. The classification head is transformers' own: it gets the last hidden states,
padded, in place of the transformer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from converters.graph.packed_attention import VECTOR, Layout
from converters.graph.sentence_graph import TOKEN_VECTORS, Backbone
from triton_models.contract.tokens import SECOND_TEXT, TOKEN_ID_BITS


class GivenStates(nn.Module):
    """Stands for a transformer in its classifier: returns the hidden states that it gets as `inputs_embeds`.

    Args:
        base: The transformer, whose pooler is applied if it has one.
    """

    def __init__(self, base: Any) -> None:  # noqa: ANN401 - architectures share no type for their pooler
        super().__init__()
        self.pooler: nn.Module | None = getattr(base, "pooler", None)
        # ALBERT's pooler is a bare Linear with an activation beside it.
        self.activation = getattr(base, "pooler_activation", None)

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> BaseModelOutputWithPooling:
        """Return `inputs_embeds`, float32 [batch, longest, H], and what the pooler makes of them."""
        pooled: Any = None
        if self.activation is not None and self.pooler is not None:
            pooled = self.activation(self.pooler(inputs_embeds[:, 0]))
        elif self.pooler is not None:
            pooled = self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


class PairGraph(nn.Module):
    """The graph from ids to logits; see the head of this file.

    Args:
        first: The transformer.
        head: The classifier, whose transformer has been replaced by `GivenStates`.
    """

    def __init__(self, first: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.head = head

    def forward(self, input_ids: Tensor, item_shape: Tensor) -> tuple[Tensor, ...]:
        """Return float32 [batch, labels] for int64 [total] and int32 [batch, 1]."""
        ids = torch.bitwise_and(input_ids, (1 << TOKEN_ID_BITS) - 1)
        types = (torch.bitwise_and(input_ids, SECOND_TEXT) != 0).to(torch.int64)
        lengths = item_shape.reshape(-1).to(torch.int64)
        layout = Layout.of(lengths, ids.shape[0], VECTOR if self.first.packed else 1)
        states = layout.pad(self.first(ids, layout, types)[TOKEN_VECTORS])
        padded = torch.where(layout.valid, layout.pad(ids), self.first.inputs.pad_id)
        logits: Tensor = self.head(
            input_ids=padded,
            attention_mask=layout.valid.to(torch.int64),
            inputs_embeds=states,
            return_dict=True,
        ).logits
        # OpenVINO's ReLU turns NaN into 0. `given - given` is 0, or else NaN.
        given = states[:, 0].mean(-1, keepdim=True)
        return (logits + (given - given),)


def head_of(classifier: PreTrainedModel) -> nn.Module:
    """Replace the transformer in its classifier, and return the classifier."""
    base = classifier.base_model
    setattr(classifier, classifier.base_model_prefix, GivenStates(base))
    return classifier
