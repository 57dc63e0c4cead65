"""Mixtures of experts without control flow: every expert computes every token, the router weighs.

transformers runs an expert only on the tokens that are routed to it, which no exported graph can do: how many
they are depends on the tokens. The sum for a token is the same, because an expert that was not chosen adds
nothing. It costs the time of all experts.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.integrations.moe import ExpertsInterface

EXPERTS = "every_expert"
"""Name under which the function is registered with transformers."""


def every_expert(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:  # noqa: ANN401 - a layer's experts
    """Compute the weighted sum of each token's experts.

    Args:
        module: The experts of a layer, as `use_experts_implementation` of transformers describes them.
        hidden: float32 [total, H].
        chosen: The experts of each token, int64 [total, k].
        weights: Their weights, float32 [total, k].

    Returns:
        float32 [total, H].
    """
    mixed = torch.zeros_like(hidden)
    for number in range(module.num_experts):
        is_chosen = chosen == number
        weight = torch.where(is_chosen, weights, 0.0).sum(-1, keepdim=True)
        # An expert that was not chosen may give inf, and zero times inf is NaN.
        added = torch.where(is_chosen.any(-1, keepdim=True), _expert(module, hidden, number) * weight, 0.0)
        mixed = mixed + added
    return mixed


def _expert(module: Any, hidden: Tensor, number: int) -> Tensor:  # noqa: ANN401 - as above
    """Return one expert's output for all tokens, float32 [total, H]."""
    name = "gate_up_proj" if module.has_gate else "up_proj"
    inner = _linear(module, name, hidden, number)
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    output = _linear(module, "down_proj", inner, number)
    return module.post_expert_norm(output) if module.has_post_expert_norm else output


def _linear(module: Any, name: str, given: Tensor, number: int) -> Tensor:  # noqa: ANN401 - as above
    weight = getattr(module, name)[number]
    bias = getattr(module, f"{name}_bias")[number] if module.has_bias else None
    return linear(given, weight.T if module.is_transposed else weight, bias)


def use_every_expert(model: PreTrainedModel) -> None:
    """Make a transformers model compute all of its experts, if it has any."""
    if any(_has_interface(kind) for kind in _kinds(model)):
        model.set_experts_implementation(EXPERTS)


def unsupported(model: PreTrainedModel) -> str | None:
    """Return the name of a class of transformers' experts that cannot use `every_expert`; None for none."""
    # A model's own code may have experts that can be exported as they are.
    kinds = (kind for kind in _kinds(model) if kind.__module__.startswith("transformers."))
    return next((kind.__name__ for kind in kinds if not _has_interface(kind)), None)


def _has_interface(kind: type[nn.Module]) -> bool:
    # The decorator of transformers' interface sets this attribute.
    return hasattr(kind, "_apply_gate")


def _kinds(model: PreTrainedModel) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules() if type(module).__name__.endswith("Experts")}


ExpertsInterface.register(EXPERTS, every_expert)
