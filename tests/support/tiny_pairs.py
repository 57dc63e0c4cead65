"""Tiny CrossEncoder directories with random weights, made with the libraries themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder
from tokenizers import processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from tests.support import tiny_tokenizers
from tests.support.tiny_models import ARCHITECTURES, spread_weights

CLASSES: dict[str, Callable[..., transformers.PreTrainedModel]] = {
    "albert": transformers.AlbertForSequenceClassification,
    "bert": transformers.BertForSequenceClassification,
    "distilbert": transformers.DistilBertForSequenceClassification,
    "electra": transformers.ElectraForSequenceClassification,
    "modernbert": transformers.ModernBertForSequenceClassification,
    "mpnet": transformers.MPNetForSequenceClassification,
    "roberta": transformers.RobertaForSequenceClassification,
    "xlm_roberta": transformers.XLMRobertaForSequenceClassification,
}
"""Classifiers by the names of `ARCHITECTURES`."""


def checkpoint(
    path: Path,
    architecture: str = "bert",
    *,
    labels: int = 1,
    max_length: int = 64,
    seed: int = 0,
    **settings: object,
) -> Path:
    """Save a classifier as transformers does, without modules.json; `settings` go into its configuration."""
    torch.manual_seed(seed)
    backbone, tokenizer = ARCHITECTURES[architecture]()
    config = backbone.config
    config.num_labels = labels
    for name, value in settings.items():
        setattr(config, name, value)
    model = CLASSES[architecture](config)
    spread_weights(model)
    model.save_pretrained(path)
    _with_pairs(tokenizer)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(path)
    return path


def cross_encoder(
    path: Path,
    architecture: str = "bert",
    *,
    labels: int = 1,
    activation: nn.Module | None = None,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    seed: int = 0,
) -> Path:
    """Save a model as CrossEncoder does, with modules.json."""
    raw = checkpoint(path.parent / f".{path.name}.checkpoint", architecture, labels=labels, seed=seed)
    model = CrossEncoder(
        str(raw),
        device="cpu",
        activation_fn=activation,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
    )
    model.save(str(path), create_model_card=False)
    return path


def true_minilm(path: Path) -> Path:
    """Save a model of the shape of cross-encoder/ms-marco-MiniLM-L6-v2, with seeded weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "num_labels": 1,
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    }
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embeddings" not in name:
            parameter.data.mul_(3)
    model.save_pretrained(path)
    tokenizer = tiny_tokenizers.wordpiece()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(path)
    return path


def _with_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give tokenizers like RoBERTa's the row of a pair."""
    if tokenizer.sep_token == "</s>":
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
