"""The modules that a text goes through: those of sentence-transformers' `Router` depend on the input type."""

from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router, Transformer
from torch import nn

from converters.errors import InvalidModel, describe
from triton_models.contract.prompts import INPUT_TYPES, InputType


def chain(model: SentenceTransformer, input_type: InputType | None = None) -> list[nn.Module]:
    """Return the modules that a text of this type goes through.

    Raises:
        InvalidModel: The library has no route for it.
    """
    modules: list[nn.Module] = []
    for module in model:
        if not isinstance(module, Router):
            modules.append(module)
            continue
        # Only a Transformer tells a later Router that this is a text.
        modality = "text" if not modules or isinstance(modules[0], Transformer) else None
        try:
            route = module._resolve_route(task=input_type, modality=modality)
        except ValueError as error:
            kind = f"a {input_type}" if input_type else "a text without an input type; set its default_route"
            raise InvalidModel(f"the Router has no route for {kind}: {describe(error)}") from error
        chosen: Any = module.sub_modules[str(route)]
        modules += list(chosen)
    return modules


def routed(model: SentenceTransformer) -> tuple[InputType, ...]:
    """Return the input types whose texts take another route than a text without a type.

    Raises:
        InvalidModel: There are more than two routes of texts, or they begin with different modules.
    """
    base = chain(model)
    others = {kind: own for kind in INPUT_TYPES if (own := chain(model, kind)) != base}
    if any(own != other for own in others.values() for other in others.values()):
        raise InvalidModel(
            "the Router has three routes for texts: of queries, of documents and of others; set its "
            "default_route to one of the first two"
        )
    for kind, own in others.items():
        if own[0] is not base[0]:
            raise InvalidModel(
                f"the Router sends a {kind} to another {type(own[0]).__name__} than other texts: two models "
                "under one name; save the modules of each route as a model of its own, load both, and name "
                "the one that fits in each request"
            )
    return tuple(others)
