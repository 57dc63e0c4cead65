"""Tiny models with one odd thing each, which people use all the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.support.tiny_models import ARCHITECTURES, HIDDEN, first_module
from tests.support.tiny_tokenizers import VOCAB, WORDS, byte_level

POSITIONS = 130


def saved(
    path: Path,
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    after: Sequence[nn.Module] | str = "mean",
    *,
    max_seq_length: int | None = 64,
    prompts: dict[str, str] | None = None,
) -> Path:
    """Save a model to `path` and return the path.

    `after` are the modules after the transformer, or the mode of a Pooling alone. With `max_seq_length` None
    the model names no limit.
    """
    torch.manual_seed(0)
    first = first_module(path, backbone, tokenizer, max_seq_length)
    rest = [Pooling(HIDDEN, after)] if isinstance(after, str) else list(after)
    model = SentenceTransformer(modules=[first, *rest], device="cpu", prompts=prompts)
    model.save(str(path), create_model_card=False)
    if max_seq_length is not None:
        # Older versions of the library wrote it, and the newer one then does not compare it with config.json.
        settings = path / "sentence_bert_config.json"
        given = json.loads(settings.read_text())
        settings.write_text(json.dumps({**given, "max_seq_length": max_seq_length}))
    return path


def without_special_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which puts no special tokens around texts any more."""
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return tokenizer


def gpt2(**changes: object) -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    return transformers.GPT2Model(
        transformers.GPT2Config(**{**sizes, **ends, "n_positions": POSITIONS, **changes})
    )


def _gpt_neo() -> PreTrainedModel:
    config = transformers.GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        intermediate_size=48,
        max_position_embeddings=POSITIONS,
        window_size=8,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.GPTNeoModel(config)


def _bloom() -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": 2, "n_head": 4}
    return transformers.BloomModel(transformers.BloomConfig(**sizes))


def without_tokens_of_nothing(path: Path, kind: str) -> Path:
    """Save a model whose tokenizer makes no token of an empty text."""
    if kind == "wordpiece":
        backbone, tokenizer = ARCHITECTURES["bert"]()
        return saved(path, backbone, without_special_tokens(tokenizer))
    backbone = {"gpt2": gpt2, "gpt_neo": _gpt_neo, "bloom": _bloom}[kind]()
    pooling = {"gpt2": "mean", "gpt_neo": "weightedmean", "bloom": "lasttoken"}[kind]
    return saved(path, backbone, without_special_tokens(byte_level()), pooling)


def known_words_only() -> PreTrainedTokenizerFast:
    """Return a tokenizer that fails on every word outside its vocabulary; of English it knows the check's."""
    from converters.verification.check_texts import _WORDS

    words = dict.fromkeys(["<pad>", "</s>", *WORDS, *_WORDS])
    tokenizer = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )
