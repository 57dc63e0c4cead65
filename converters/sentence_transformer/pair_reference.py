"""Reference of a CrossEncoder: the library's own logits, with which converted ones are compared."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from torch import nn
from transformers import PreTrainedModel

from converters.causes import blamed_on_the_model
from converters.errors import InvalidModel
from converters.sentence_transformer import checkpoint
from converters.sentence_transformer.reference import check_first
from converters.sources.inspection import SourceLayout
from triton_models.contract.manifest import Activation

Pair = tuple[str, str]

_ACTIVATIONS: dict[type, Activation] = {nn.Sigmoid: "sigmoid", nn.Identity: "identity"}


@dataclass(frozen=True)
class PairReference:
    """A loaded CrossEncoder and the settings that it publishes.

    Attributes:
        model: The model in evaluation mode, float32.
        prompts: Texts of the prompts, by name; a prompt is put before the first text.
        default_prompt_name: Name of the default prompt; None if there is none.
        labels: Name of each logit.
        activation: Function that `predict` applies to the logits.
    """

    model: CrossEncoder
    prompts: dict[str, str]
    default_prompt_name: str | None
    labels: list[str]
    activation: Activation

    @property
    def first(self) -> Any:  # noqa: ANN401 - as in `positions.Reference`
        """The only module: a `Transformer` with a classification head."""
        return self.model[0]

    @property
    def backbone(self) -> PreTrainedModel:
        """The transformers model with its classification head."""
        model: PreTrainedModel = self.first.model
        return model

    def fresh(self) -> "PairReference":
        """Return a copy that shares the weights but has its own state."""
        shared: list[Any] = [*self.model.parameters(), self.first.processor, self.first.tokenizer]
        return replace(self, model=copy.deepcopy(self.model, {id(part): part for part in shared}))

    def logits(self, pairs: Sequence[Pair], prompt: str) -> NDArray[np.float32]:
        """Return the logits of pairs in one batch: float32 [n, labels].

        Args:
            pairs: Pairs without the prompt; all have equally many tokens, so that none is padded.
            prompt: The prompt; empty for none.

        Raises:
            InvalidModel: The reference itself fails on a pair.
        """
        with blamed_on_the_model(lambda: "sentence-transformers itself fails on a pair"):
            found = self.model.predict(
                list(pairs),
                prompt=prompt,
                batch_size=len(pairs),
                show_progress_bar=False,
                activation_fn=nn.Identity(),
            )
        return np.asarray(found, dtype=np.float32).reshape(len(pairs), -1)


def load(directory: Path, layout: SourceLayout, *, trust_remote_code: bool) -> PairReference:
    """Load the CrossEncoder of a directory.

    Raises:
        InvalidModel: The model cannot be loaded, lacks weights, or does something that a graph cannot do.
    """
    home = layout.transformer_dir
    checkpoint.check_size(home, layout.stored, trust_remote_code=trust_remote_code)
    model = checkpoint.opened(CrossEncoder, directory, home, trust_remote_code=trust_remote_code)
    _check_interface(model)
    first: Any = model[0]
    checkpoint.check_complete(first, home, trust_remote_code=trust_remote_code, needs_pooler=True)
    activation: Any = model.activation_fn
    if type(activation) not in _ACTIVATIONS:
        raise InvalidModel(
            f"the activation function {type(activation).__name__} is not supported; take Sigmoid or Identity"
        )
    config: Any = first.model.config
    return PairReference(
        model=model,
        prompts={name: text or "" for name, text in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        labels=[str(config.id2label.get(number, number)) for number in range(model.num_labels)],
        activation=_ACTIVATIONS[type(activation)],
    )


def _check_interface(model: CrossEncoder) -> None:
    """Refuse modules, inputs and outputs that the model contract does not support."""
    modules = list(model)
    first: Any = modules[0]
    if len(modules) != 1 or not isinstance(first, Transformer):
        names = ", ".join(type(module).__name__ for module in modules)
        raise InvalidModel(
            f"the CrossEncoder has the modules {names}; only one Transformer that classifies is supported"
        )
    if "message" in first.modality_config:
        raise InvalidModel("the model takes chat messages, not plain texts; that is not supported")
    how: Any = first.modality_config.get("text")
    if how is None or (how["method"], how["method_output_name"]) != ("forward", "logits"):
        raise InvalidModel("the transformer has no logits of texts; that is not supported")
    check_first(first)
