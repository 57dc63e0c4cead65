"""Tiny SentenceTransformer directories with random weights, made with the libraries themselves.

They are deterministic. The weights are larger than usual, so that the vectors of different texts differ
clearly: a check with nearly parallel vectors would notice no error.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from tests.support.tiny_tokenizers import VOCAB, byte_level, unigram, wordpiece

HIDDEN = 32
_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 130,
}
_BERT_LIKE = {**_SIZES, "vocab_size": VOCAB, "type_vocab_size": 2, "pad_token_id": 0}
_ROBERTA_LIKE = {**_BERT_LIKE, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def _bert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return transformers.BertModel(transformers.BertConfig(**_BERT_LIKE)), wordpiece()


def _distilbert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=HIDDEN, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=130
    )
    return transformers.DistilBertModel(config), wordpiece()


def _roberta() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return transformers.RobertaModel(transformers.RobertaConfig(**_ROBERTA_LIKE)), byte_level()


def _xlm_roberta() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**_ROBERTA_LIKE)), unigram()


def _camembert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return transformers.CamembertModel(transformers.CamembertConfig(**_ROBERTA_LIKE)), unigram()


def _mpnet() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.MPNetConfig(
        **_SIZES, vocab_size=VOCAB, pad_token_id=1, bos_token_id=0, eos_token_id=2
    )
    return transformers.MPNetModel(config), unigram()


def _albert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.AlbertConfig(**{**_BERT_LIKE, "pad_token_id": 1}, embedding_size=16)
    return transformers.AlbertModel(config), unigram()


def _electra() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.ElectraConfig(**_BERT_LIKE, embedding_size=16)
    return transformers.ElectraModel(config), wordpiece()


def _modernbert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.ModernBertConfig(
        **_SIZES,
        vocab_size=VOCAB,
        layer_types=["full_attention", "sliding_attention"],
        local_attention=8,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    )
    return transformers.ModernBertModel(config), wordpiece(lowercase=False)


def _t5() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        pad_token_id=1,
        eos_token_id=2,
    )
    return transformers.T5EncoderModel(config), unigram(ends=True)


def decoder_sizes(**more: object) -> dict[str, Any]:
    """Return the sizes of a tiny decoder's configuration; the ids are those of `byte_level`."""
    return {
        **_SIZES,
        "vocab_size": VOCAB,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **more,
    }


def _qwen3() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return transformers.Qwen3Model(transformers.Qwen3Config(**decoder_sizes())), byte_level(ends=True)


def _mistral() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.MistralConfig(**decoder_sizes(sliding_window=6))
    return transformers.MistralModel(config), byte_level(ends=True)


def _gemma3(**more: object) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = transformers.Gemma3TextConfig(
        **decoder_sizes(
            num_hidden_layers=2,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=8,
            **more,
        )
    )
    return transformers.Gemma3TextModel(config), byte_level(ends=True)


def _gemma3_bidirectional() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return _gemma3(use_bidirectional_attention=True)


ARCHITECTURES: dict[str, Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "roberta": _roberta,
    "xlm_roberta": _xlm_roberta,
    "camembert": _camembert,
    "mpnet": _mpnet,
    "albert": _albert,
    "electra": _electra,
    "modernbert": _modernbert,
    "t5": _t5,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gemma3": _gemma3,
    "gemma3_bidirectional": _gemma3_bidirectional,
}
"""Transformers by name; `static_model` makes static embeddings."""

PACKED = frozenset(ARCHITECTURES) - {"mpnet", "t5"}
"""Architectures whose attention uses transformers' attention interface."""


def transformer_model(
    path: Path,
    architecture: str = "bert",
    *,
    pooling: str | Sequence[str] | None = None,
    dense: int | None = None,
    residual: bool = False,
    activation: nn.Module | None = None,
    layer_norm: bool = False,
    normalize: bool = True,
    include_prompt: bool = True,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    max_seq_length: int = 64,
    truncate_dim: int | None = None,
    seed: int = 0,
) -> Path:
    """Save a model of one of `ARCHITECTURES` to `path` and return the path.

    `pooling` is one mode or several; the default is the last token for decoders, else the mean. `dense` is
    the output size of a Dense module after pooling. Each `seed` gives other weights.
    """
    torch.manual_seed(seed)
    backbone, tokenizer = ARCHITECTURES[architecture]()
    first = first_module(path, backbone, tokenizer, max_seq_length)
    default = "lasttoken" if _is_decoder(backbone.config) else "mean"
    modes = pooling or default
    width = HIDDEN if isinstance(modes, str) else HIDDEN * len(modes)
    modules: list[nn.Module] = [
        first,
        Pooling(HIDDEN, modes if isinstance(modes, str) else tuple(modes), include_prompt=include_prompt),
    ]
    if dense is not None:
        modules.append(
            Dense(width, dense, activation_function=activation or nn.Tanh(), use_residual=residual)
        )
        width = dense
    if layer_norm:
        modules.append(LayerNorm(width))
    if normalize:
        modules.append(Normalize())
    model = SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        truncate_dim=truncate_dim,
    )
    model.save(str(path), create_model_card=False)
    return path


def first_module(
    path: Path, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, max_seq_length: int | None
) -> Transformer:
    """Spread the weights and return the first module of the model at `path`; None names no limit."""
    spread_weights(backbone)
    limit = {} if max_seq_length is None else {"model_max_length": max_seq_length}
    if max_seq_length is not None:
        tokenizer.model_max_length = max_seq_length
    raw = path.parent / f".{path.name}.transformer"
    backbone.save_pretrained(raw)
    tokenizer.save_pretrained(raw)
    first: Transformer = Transformer(str(raw), processor_kwargs=limit)
    return first


def static_model(
    path: Path, *, normalize: bool = True, seed: int = 0, words: dict[str, float] | None = None
) -> Path:
    """Save a model of static embeddings to `path` and return the path.

    `words` maps a word to the value of every element of its vector.
    """
    torch.manual_seed(seed)
    backend = wordpiece().backend_tokenizer
    weights = torch.randn(VOCAB, HIDDEN)
    for word, number in (words or {}).items():
        weights[backend.token_to_id(word)] = number
    modules: list[nn.Module] = [StaticEmbedding(backend, embedding_weights=weights)]
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu").save(str(path), create_model_card=False)
    return path


def _is_decoder(config: PretrainedConfig) -> bool:
    return config.model_type in ("qwen3", "mistral", "gemma3_text")


def spread_weights(model: PreTrainedModel) -> None:
    """Set weights that change vectors clearly: attention prefers some tokens, and gains differ from 1."""
    # Gemma adds normalised outputs to its inputs, so large inputs would leave every last token alike.
    words = 0.1 if model.config.model_type == "gemma3_text" else 4.0
    generator = torch.Generator().manual_seed(torch.initial_seed())
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter is table:
                parameter.copy_(noise * words)
            elif parameter.ndim == 1:
                parameter.add_(noise * 0.1)
            else:
                scale = (
                    0.5 if "embed" in name else 1.0 if "bias" in name else 3.0 / parameter.shape[-1] ** 0.5
                )
                parameter.copy_(noise * scale)
