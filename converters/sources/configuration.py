"""Checks of the keys that a model's configuration files may hold.

sentence-transformers, transformers and open_clip pass values of these files to functions that open files, ask
the Hub or run code. The keys that become keyword arguments are therefore listed here one by one, and all
others are refused. A file that is open by design (config.json) may hold any key except those that the
libraries would follow.

Does not import torch. No value in a file is trusted, whatever its type.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from converters.errors import InvalidModel

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "tokenizer.model",
)
ACTIVATIONS = frozenset(
    f"torch.nn.{module}{name}"
    for name, place in (("Sigmoid", "modules.activation."), ("Identity", "modules.linear."))
    for module in ("", place)
)
"""The activations of cross-encoders, by the paths under which checkpoints name them."""
EMBEDDING_TASK, PAIR_TASK = "feature-extraction", "sequence-classification"
"""The tasks of the transformers of SentenceTransformers and of CrossEncoders."""

# Keys that point to another repository or directory; no request may lead there.
_POINTERS = ("tokenizer_name_or_path", "base_model_name_or_path")

_COMMON = frozenset("dtype torch_dtype attn_implementation use_cache".split())
_MODEL = _COMMON | frozenset("add_pooling_layer low_cpu_mem_usage use_safetensors".split())
_CONFIG = _COMMON | frozenset(
    "is_causal is_decoder output_attentions output_hidden_states reference_compile "
    "use_bidirectional_attention".split()
)
_SPECIAL_TOKENS = frozenset("additional_special_tokens extra_special_tokens".split())
_TOKENIZER = _SPECIAL_TOKENS | frozenset(
    "add_bos_token add_eos_token add_prefix_space clean_up_tokenization_spaces do_lower_case "
    "fix_mistral_regex legacy max_length model_max_length padding padding_side spaces_between_special_tokens "
    "split_special_tokens strip_accents tokenize_chinese_chars truncation truncation_side use_fast".split()
)
_HANDED_ON = {
    "model_args": _MODEL,
    "model_kwargs": _MODEL,
    "tokenizer_args": _TOKENIZER,
    "processor_kwargs": _TOKENIZER,
    "config_args": _CONFIG,
    "config_kwargs": _CONFIG,
}
TRANSFORMER_KEYS = frozenset(_HANDED_ON) | frozenset(
    "backend do_lower_case document_length max_seq_length modality_config module_output_name "
    "processing_kwargs query_expansion query_length tokenizer_name_or_path transformer_task "
    "unpad_inputs".split()
)
"""Keys of sentence_*_config.json, which become arguments of sentence-transformers' `Transformer`."""
_PROCESSING = frozenset("add_special_tokens max_length padding padding_side truncation".split())

# Keys of tokenizer_config.json that may hold more than a number or a switch. The file's keys become arguments
# of the tokenizer's class.
_TOKENIZER_CONFIG = _TOKENIZER | frozenset(
    "added_tokens_decoder auto_map backend chat_template errors feature_extractor_type lang language "
    "language_codes langs model_input_names model_type model_specific_special_tokens never_split "
    "processor_class response_schema slow_tokenizer_class src_lang subword_tokenizer_type task tgt_lang "
    "token_type_ids_pattern tokenizer_class transformers_version truncation_strategy "
    "word_tokenizer_type wordpieces_prefix".split()
)
# In old files these keys hold paths of the machine that wrote them; transformers replaces them by its own.
_STALE = frozenset("_name_or_path name_or_path special_tokens_map_file tokenizer_file".split())
_MODULE = re.compile(r"[0-9]{1,3}_[A-Z][A-Za-z]{1,40}$")
_WORDS = re.compile(r"[A-Za-z0-9_]+")

# Keys of config.json and of the processors' files, at any depth.
_FOLLOWED = {
    "backbone": "another model",
    "configuration_files": "another configuration",
    "distributed_config": "other machines",
    "kernel_config": "code of others",
    "transformers_weights": "another file of weights",
    "use_pretrained_backbone": "another model",
}
_IMPLEMENTATIONS = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_FILE_KEYS = re.compile(r".*(_files?|_path|_dir|_repo|repo_id|audio_tokenizer)")
_NO_PATHS = frozenset("id2label label2id prompts task_specific_params chat_template".split())
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def read_json(path: Path, kind: type) -> Any:  # noqa: ANN401 - JSON of a model's file
    """Return the content of a JSON file.

    Raises:
        InvalidModel: The file is broken, or its content is not a `kind`.
    """
    # Each module after the first has a config.json of its own, in a directory such as 1_Pooling.
    name = f"{path.parent.name}/{path.name}" if _MODULE.match(path.parent.name) else path.name
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{name} is broken: {error}") from error
    if not isinstance(data, kind):
        raise InvalidModel(f"{name} is broken: it must hold a JSON {kind.__name__}")
    return data


def check(home: Path, *, task: str = EMBEDDING_TASK, trust_remote_code: bool = False) -> None:
    """Refuse a directory of transformers whose configuration would lead out of it.

    Args:
        home: The directory.
        task: The transformer's task, as `sentence_bert_config.json` names it.
        trust_remote_code: Whether the model's own code may run; it may read any key, so the files may have
            keys of their own.

    Raises:
        InvalidModel: A file is broken, or holds a key or value that is not accepted; the message names it.
    """
    checks: dict[str, Callable[[str, dict[str, Any]], None]] = {
        "config.json": check_config,
        "tokenizer_config.json": _check_tokenizer_config,
        "special_tokens_map.json": _check_special_tokens,
        **dict.fromkeys(_PROCESSOR_FILES, _check_processor),
    }
    for name, checked in checks.items():
        if (home / name).is_file():
            checked(name, read_json(home / name, dict))
    for name in TRANSFORMER_CONFIGS:
        if (home / name).is_file():
            _check_transformer(name, read_json(home / name, dict), task, trust_remote_code)


def check_activation(name: str, given: Any) -> None:  # noqa: ANN401 - JSON of a model's file
    """Refuse an activation of a cross-encoder that the library would import and this server cannot serve."""
    # Of other paths the library takes none, and uses its default.
    if isinstance(given, str) and given.startswith("torch.") and given not in ACTIVATIONS:
        raise InvalidModel(
            f"{name} names the activation {given[:100]!r}, which is not supported; take Sigmoid or Identity"
        )


def check_keys(where: str, given: Any, allowed: frozenset[str]) -> None:  # noqa: ANN401
    """Refuse every key that is not allowed, and every value that is a path.

    Raises:
        InvalidModel: A key or value is refused; the message names the key.
    """
    if given is None:
        return
    if not isinstance(given, dict):
        raise InvalidModel(f"{where} is broken: it must hold a JSON object")
    for key, value in given.items():
        if key not in allowed:
            raise _refusal(where, key)
        _check_value(where, key, value)


def check_config(name: str, config: dict[str, Any]) -> None:
    """Refuse a `config.json` that leads transformers to other files, repositories or code."""
    if config.get("model_type") is None and "pretrained_cfg" in config:
        raise InvalidModel(f"{name} is of timm: an image model, which gives no embeddings of texts")
    for key, value in _entries(config):
        if key in _FOLLOWED and value:
            raise InvalidModel(f"{name} points to {_FOLLOWED[key]} ({key}), which is not followed")
        if key in ("quantization_config", "compression_config") and value:
            raise InvalidModel(
                f"{name}: the weights are quantized ({key}), which is not supported; take unquantized ones"
            )
        if key == "model_type" and str(value).startswith("timm"):
            raise InvalidModel(f"{name} names a model of timm, which is not followed")
        if not key.endswith("name_or_path"):
            _check_value(name, key, value)


def _check_transformer(name: str, settings: dict[str, Any], needed: str, trusted: bool) -> None:
    for pointer in _POINTERS:
        if settings.get(pointer):
            raise InvalidModel(f"{name} points to another model ({pointer}), which is not followed")
    task = settings.get("transformer_task", EMBEDDING_TASK)
    if task != needed:
        gives = "embeddings" if needed == EMBEDDING_TASK else "scores of pairs"
        raise InvalidModel(f"the transformer's task is {task!r}; only {needed!r} gives {gives}")
    if settings.get("query_expansion"):
        raise InvalidModel("the model expands queries (query_expansion), which is not supported")
    if trusted:
        return
    check_keys(name, dict.fromkeys(settings), TRANSFORMER_KEYS)
    for key, allowed in _HANDED_ON.items():
        given = settings.get(key)
        if isinstance(given, dict):
            # The library removes or replaces these keys; with their default values they change nothing.
            given = {
                inner: value
                for inner, value in given.items()
                if not (inner == "trust_remote_code" and value is False)
                and not (inner == "weights_only" and value is True)
                and not (allowed is _TOKENIZER and _is_special_token(inner, value))
            }
        check_keys(f"{name}: {key}", given, allowed)
    processing = settings.get("processing_kwargs")
    check_keys(f"{name}: processing_kwargs", processing, frozenset({"common", "text"}))
    for key, given in (processing or {}).items():
        check_keys(f"{name}: processing_kwargs.{key}", given, _PROCESSING)


def _check_tokenizer_config(name: str, settings: dict[str, Any]) -> None:
    if "add_special_tokens" in settings:
        raise InvalidModel(
            f"{name}: add_special_tokens is the name of a method, so transformers cannot read the tokenizer; "
            "write it into processing_kwargs.text of sentence_bert_config.json instead"
        )
    for key, value in settings.items():
        if key in _STALE or not any(isinstance(part, str) for _, part in _entries({key: value})):
            # Numbers and switches cannot name a file or a repository.
            continue
        if key.endswith("_file") and value in TOKENIZER_FILES:
            continue
        if key == "fast_tokenizer_files" and _are_plain_names(value):
            continue
        if key not in _TOKENIZER_CONFIG and not _is_special_token(key, value):
            raise _refusal(name, key)


def _check_special_tokens(name: str, mapping: dict[str, Any]) -> None:
    """Refuse everything but tokens: transformers also passes this file's keys to the tokenizer's class."""
    for key, value in mapping.items():
        if key not in _SPECIAL_TOKENS and not _is_special_token(key, value):
            raise _refusal(name, key)


def _check_processor(name: str, settings: dict[str, Any]) -> None:
    for key, value in _entries(settings):
        if value and not key.endswith("name_or_path") and _FILE_KEYS.fullmatch(key):
            raise _refusal(name, key)
        _check_value(name, key, value)


def _check_value(where: str, key: str, value: Any) -> None:  # noqa: ANN401 - JSON of a model's file
    if _IMPLEMENTATIONS.fullmatch(key):
        # A value that is not a plain word names a Hub repository, whose code would be fetched and run.
        words = value.values() if isinstance(value, dict) else [value]
        if not all(word is None or _WORDS.fullmatch(str(word)) for word in words):
            raise InvalidModel(f"{where} asks for code of others ({key}), which is not run")
    if isinstance(value, str) and key not in _NO_PATHS and _leads_out(value):
        raise InvalidModel(f"{where} names a path ({key}), which is not followed; remove it")


def _entries(data: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON of a model's file
    """Yield every key at any depth with its value, without recursion; list elements have their list's key."""
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        key, value = waiting.pop()
        if key:
            yield key, value
        if isinstance(value, dict) and key not in _NO_PATHS:
            waiting += [(str(inner), part) for inner, part in value.items()]
        elif isinstance(value, list):
            waiting += [(key, part) for part in value if isinstance(part, dict | list | str)]


def _leads_out(text: str) -> bool:
    """Return whether a string is a path out of the model's directory, or a URL."""
    return text.startswith(("/", "~/", "\\")) or "://" in text or ".." in re.split(r"[/\\]", text)


def _is_special_token(key: str, value: Any) -> bool:  # noqa: ANN401 - JSON of a model's file
    """Return whether this is a token (`unk_token`) as tokenizers write it: its text, or an object with it."""
    return key.endswith("_token") and (
        value is None
        or isinstance(value, str)
        or (isinstance(value, dict) and isinstance(value.get("content"), str))
    )


def _are_plain_names(value: Any) -> bool:  # noqa: ANN401 - JSON of a model's file
    return isinstance(value, list) and all(
        isinstance(name, str) and re.fullmatch(r"tokenizer[\w.-]*\.json", name) for name in value
    )


def _refusal(where: str, key: str) -> InvalidModel:
    return InvalidModel(
        f"{where} holds the key {key[:100]!r}, which is not accepted: it is handed on to the libraries and "
        "could lead them to other files or code; remove it"
    )
