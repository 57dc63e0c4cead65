"""Reference of a SentenceTransformer: the library's own vectors, with which converted ones are compared.

The reference always runs in float32 on the CPU, from a local directory that `inspection.inspect` accepted.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    StaticEmbedding,
    Transformer,
    WordEmbeddings,
)
from torch import nn
from transformers import CLIPModel, PreTrainedModel

from converters.causes import blamed_on_the_model
from converters.errors import InvalidModel
from converters.graph import experts
from converters.sentence_transformer import checkpoint, routes
from converters.sources.inspection import SourceLayout
from triton_models.contract.prompts import InputType
from triton_models.contract.tokens import token_ids

# Options of `processing_kwargs`: those of the first list are read back from the tokenizer, and so are special
# tokens. Padding to max_length has a check of its own, see `padding`. The rest does not affect a text that is
# alone in its batch.
_READ_BACK = ("max_length", "truncation")
_PROCESSING: dict[str, tuple[object, ...]] = {
    "add_special_tokens": (True, False),
    "padding": (True, False, "longest", "do_not_pad", "max_length"),
    "padding_side": ("left", "right"),
    "return_tensors": ("pt",),
}


@dataclass(frozen=True)
class ReferenceModel:
    """A loaded SentenceTransformer and the settings that it publishes.

    Attributes:
        model: The model in evaluation mode, float32.
        prompts: Texts of the prompts, by name.
        default_prompt_name: Name of the default prompt; None if there is none.
        include_prompt: False if pooling leaves the prompt's tokens out.
        truncate: Dimensions of the output that are kept; None for all.
        routed: Input types of texts that take another route than others, see `routes`.
    """

    model: SentenceTransformer
    prompts: dict[str, str]
    default_prompt_name: str | None
    include_prompt: bool
    truncate: int | None
    routed: tuple[InputType, ...] = ()

    @property
    def first(self) -> Any:  # noqa: ANN401 - one of classes that share no type
        """The first module: a `Transformer`, `StaticEmbedding`, `WordEmbeddings` or `BoW`."""
        return self.chain()[0]

    def chain(self, input_type: InputType | None = None) -> list[nn.Module]:
        """Return the modules that a text of this type goes through."""
        return routes.chain(self.model, input_type)

    @property
    def backbone(self) -> PreTrainedModel | None:
        """The transformers model of texts; None for the other first modules."""
        if not isinstance(self.first, Transformer):
            return None
        model: PreTrainedModel = self.first.model
        return model.text_model if isinstance(model, CLIPModel) else model

    @property
    def has_tokens(self) -> bool:
        """True if the first module gives a vector for each token, which a Pooling must follow."""
        is_clip = isinstance(getattr(self.first, "model", None), CLIPModel)
        return isinstance(self.first, Transformer | WordEmbeddings) and not is_clip

    def fresh(self) -> "ReferenceModel":
        """Return a copy that shares the weights but has its own state.

        It is in the state of a newly loaded model if this one still is.
        """
        shared: list[Any] = [
            *self.model.parameters(),
            getattr(self.first, "processor", None),
            self.first.tokenizer,
        ]
        return replace(self, model=copy.deepcopy(self.model, {id(part): part for part in shared}))

    def encode(
        self, texts: Sequence[str], prompt: str | None = None, input_type: InputType | None = None
    ) -> NDArray[np.float32]:
        """Embed texts in one batch; all have equally many tokens, so that none is padded.

        Args:
            texts: Texts without their prompt.
            prompt: The prompt; None for the default one.
            input_type: `encode_query` or `encode_document` is used for it, with the prompt that these
                choose; `encode` for None.

        Returns:
            float32 [n, D].

        Raises:
            InvalidModel: The reference itself fails on a text.
        """
        options: dict[str, Any] = {"batch_size": len(texts), "show_progress_bar": False}
        if input_type == "query":
            return _vectors(self.model.encode_query, list(texts), **options)
        if input_type == "document":
            return _vectors(self.model.encode_document, list(texts), **options)
        return _vectors(self.model.encode, list(texts), prompt=prompt, **options)

    def encode_tokens(
        self, text: str, ids: NDArray[np.int64], input_type: InputType | None = None
    ) -> NDArray[np.float32]:
        """Embed each token of a text.

        Args:
            text: Text including its prompt.
            ids: Its tokens, int64 [L].
            input_type: Type of the text, if any.

        Returns:
            float32 [L, H].

        Raises:
            InvalidModel: The reference itself fails on the text.
        """
        if isinstance(self.first, StaticEmbedding):
            # The library has no token embeddings for static models; they are the rows of the table.
            table: NDArray[np.float32] = self.first.embedding.weight.detach().cpu().numpy()
            return table[token_ids(ids)]
        return _vectors(self.model.encode, text, prompt="", output_value="token_embeddings", task=input_type)


@contextmanager
def on_gpu(loaded: ReferenceModel) -> Iterator[None]:
    """Compute the reference's vectors on a GPU inside the `with` block, in full fp32, if there is one."""
    if not torch.cuda.is_available():
        yield
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    loaded.model.to("cuda")
    try:
        yield
    finally:
        loaded.model.to("cpu")


def _vectors(encode: Callable[..., Any], given: str | list[str], **options: Any) -> NDArray[np.float32]:  # noqa: ANN401 - of `encode`
    """Return what a method of the library gives.

    Raises:
        InvalidModel: The library itself fails on a text.
    """
    with blamed_on_the_model(lambda: "sentence-transformers itself fails on a text"):
        vectors = encode(given, **options)
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.cpu()
    return np.asarray(vectors, dtype=np.float32)


def load(directory: Path, layout: SourceLayout, *, trust_remote_code: bool) -> ReferenceModel:
    """Load the SentenceTransformer of a directory.

    Raises:
        InvalidModel: The model cannot be loaded, lacks weights, or does something that a graph cannot do.
    """
    for home, stored in ((layout.transformer_dir, layout.stored), *layout.others):
        checkpoint.check_size(home, stored, trust_remote_code=trust_remote_code)
    model = checkpoint.opened(
        SentenceTransformer, directory, layout.transformer_dir, trust_remote_code=trust_remote_code
    )
    routed = routes.routed(model)
    modules = routes.chain(model)
    first = modules[0]
    if isinstance(first, Transformer):
        _check_interface(first)
        checkpoint.check_complete(first, layout.transformer_dir, trust_remote_code=trust_remote_code)
    elif not isinstance(first, StaticEmbedding | WordEmbeddings | BoW):
        raise InvalidModel(f"the first module is {type(first).__name__}, which is not supported")
    # Only a Transformer tells the pooling how long the prompt is.
    pooling = [module for module in modules if hasattr(module, "include_prompt")]
    pooling = pooling if isinstance(first, Transformer) else []
    return ReferenceModel(
        model=model,
        prompts={name: text or "" for name, text in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        include_prompt=all(module.include_prompt for module in pooling),
        truncate=model.truncate_dim,
        routed=routed,
    )


def _check_interface(first: Transformer) -> None:
    """Refuse inputs and outputs that the model contract does not support."""
    if "message" in first.modality_config:
        raise InvalidModel("the model takes chat messages, not plain texts; that is not supported")
    how: Any = first.modality_config.get("text")
    if how is None:
        raise InvalidModel("the model takes no text")
    output: Any = how["method_output_name"]
    way = (how["method"], *(output if isinstance(output, list | tuple) else [output]))
    is_clip = isinstance(first.model, CLIPModel)
    if way != (("get_text_features", "pooler_output") if is_clip else ("forward", "last_hidden_state")):
        raise InvalidModel(f"the transformer's output {output!r} is not supported")
    if first.module_output_name != ("sentence_embedding" if is_clip else "token_embeddings"):
        raise InvalidModel(f"the transformer gives {first.module_output_name!r} instead of token embeddings")
    check_first(first)


def check_first(first: Transformer) -> None:
    """Refuse a transformer of any kind of model that does more to texts than the contract supports."""
    if first.tokenizer is None:
        raise InvalidModel("the model has no tokenizer")
    for part in ("common", "text"):
        options: Any = first.processing_kwargs.get(part) or {}
        for option, value in options.items():
            if value not in _PROCESSING.get(option, ()) and option not in _READ_BACK:
                raise InvalidModel(f"processing_kwargs: {part}.{option} = {value!r} is not supported")
    if (kind := experts.unsupported(first.model)) is not None:
        raise InvalidModel(
            f"its mixture of experts ({kind}) does not use transformers' interface for experts, so it cannot "
            "be exported; take a model of an architecture that does, such as Mixtral or Qwen3-MoE"
        )
    _check_positions(first)


def _check_positions(first: Transformer) -> None:
    """Refuse positions that depend on the longest text of a batch, or on the longest text so far."""
    config: Any = first.model.config
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    for part in kinds:
        if part.get("rope_type") not in ("dynamic", "longrope"):
            continue
        longest = part.get("original_max_position_embeddings") or config.max_position_embeddings
        lengths = (first.max_seq_length, first.query_length, first.document_length)
        if any(length is not None and length > longest for length in lengths):
            raise InvalidModel(
                f"beyond {longest} tokens, the positions of a text (rope_type {part['rope_type']}) depend on "
                f"the texts beside it, which is not supported; set max_seq_length to {longest}"
            )
