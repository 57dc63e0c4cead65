"""Inspection of a model's directory before any library loads it.

sentence-transformers and transformers follow whatever a directory's configuration names: other repositories,
other files, code. A configuration that leads out of the directory, or to a model that is not a text embedding
model, is refused here. Does not import torch.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InvalidModel, one_line
from converters.sources import sentencepiece_file, weights
from converters.sources.configuration import TOKENIZER_FILES, check, read_json
from converters.sources.weights import Stored

SUPPORTED_MODULES = frozenset(
    {"Transformer", "StaticEmbedding", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"}
)
"""Classes of sentence-transformers that the graph supports, by the last part of their name."""

_FIRST = ("Transformer", "StaticEmbedding")
# Heads in a checkpoint's `architectures` that make it a model for another task, whatever its encoder returns.
_OTHER_TASK = re.compile(
    r".*For(\w*Classification|\w*QuestionAnswering|MultipleChoice|NextSentencePrediction|CTC)"
)


@dataclass(frozen=True)
class SourceLayout:
    """The parts of a source.

    Attributes:
        transformer_dir: Directory of the transformer or the static embedding.
        weight_bytes: Size of all weights in float32.
        stored: The weights of the transformer.
        notice: A sentence about the model that a caller should know; None if there is none.
    """

    transformer_dir: Path
    weight_bytes: int
    stored: Stored
    notice: str | None = None


def inspect(directory: Path, *, trust_remote_code: bool) -> SourceLayout:
    """Read the configuration of a source.

    Raises:
        InvalidModel: The source is not a model, is broken, or cannot be converted; the message says why.
    """
    first, is_static = "", False
    notice = None
    _check_kind(directory)
    if (directory / "modules.json").is_file():
        first, is_static = _check_modules(directory, trust_remote_code=trust_remote_code)
    elif (directory / "config.json").is_file():
        notice = _check_task(read_json(directory / "config.json", dict))
    else:
        raise InvalidModel("the source is not a model: it has neither modules.json nor config.json")
    home = directory / first
    if not _is_directory(home):
        raise InvalidModel("modules.json names a path that is no directory of the model")
    if not is_static:
        _check_transformer(directory, home, trust_remote_code)
    stored = _check_weights(home)
    if not any((home / name).is_file() for name in TOKENIZER_FILES):
        raise InvalidModel("the source has no tokenizer: " + ", ".join(TOKENIZER_FILES) + " are all missing")
    if (home / "tokenizer.json").is_file():
        read_json(home / "tokenizer.json", dict)
    else:
        sentencepiece_file.check(home)
    return SourceLayout(home, _weight_bytes(directory, home), stored, notice)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # For example, the name is too long.
        return False


def _check_kind(directory: Path) -> None:
    settings = directory / "config_sentence_transformers.json"
    if settings.is_file():
        kind = read_json(settings, dict).get("model_type", "SentenceTransformer")
        if kind != "SentenceTransformer":
            raise InvalidModel(f"the source is a {kind}, not a SentenceTransformer")


def _check_task(config: dict[str, Any]) -> str:
    """Refuse a plain transformers checkpoint that is made for another task; return a notice for any other."""
    named = config.get("architectures")
    heads = [one_line(str(name))[:100] for name in named] if isinstance(named, list) else []
    for head in heads:
        if _OTHER_TASK.fullmatch(head):
            raise InvalidModel(
                f"the source is a {head} and no embedding model: it has a head for another task (a "
                "cross-encoder or classifier, say) and no modules.json"
            )
    return (
        f"it is no sentence-transformers model ({heads[0] if heads else 'config.json'}, no modules.json). "
        "As in that library its vectors are the mean of the last hidden states, of causal language models "
        "the last token's, for which it may not have been trained"
    )


def _check_modules(directory: Path, *, trust_remote_code: bool) -> tuple[str, bool]:
    """Check the modules, and return the first one's directory and whether it is a static embedding."""
    modules = read_json(directory / "modules.json", list)
    if not modules:
        raise InvalidModel("modules.json lists no modules")
    for index, module in enumerate(modules):
        if not isinstance(module, dict) or not all(
            isinstance(module.get(key), str) for key in ("type", "path")
        ):
            raise InvalidModel("modules.json is broken: each module needs a type and a path")
        path = Path(module["path"])
        if path.is_absolute() or ".." in path.parts:
            raise InvalidModel(f"modules.json names a path outside of the model: {module['path']!r}")
        name = module["type"]
        if not name.startswith("sentence_transformers.") and not trust_remote_code:
            raise InvalidModel(f"the module {name!r} is code of the model's own, which is not run")
        kind = name.rpartition(".")[2]
        if kind not in SUPPORTED_MODULES:
            raise InvalidModel(f"the module {name!r} is not supported")
        if (kind in _FIRST) != (index == 0):
            raise InvalidModel(
                f"module {index} is {kind}; the first, and no other, must be Transformer or StaticEmbedding"
            )
        if not trust_remote_code:
            _check_module(directory / path, kind)
    first = modules[0]
    return first["path"], first["type"].endswith("StaticEmbedding")


def _check_module(home: Path, kind: str) -> None:
    """Refuse a module whose configuration is broken, imports code outside torch.nn or exceeds its weights."""
    if not _is_directory(home) or not (home / "config.json").is_file():
        return
    config = read_json(home / "config.json", dict)
    if kind not in ("Dense", "LayerNorm"):
        return
    activation = str(config.get("activation_function"))
    # For classes of other libraries, sentence-transformers itself reports that they are not trusted.
    if activation.startswith("torch.") and not activation.startswith("torch.nn."):
        raise InvalidModel(f"{kind} names the activation {activation[:100]!r}, which is none of torch.nn")
    sizes = [config.get(key) for key in ("in_features", "out_features", "dimension")]
    claimed = math.prod(size for size in sizes if isinstance(size, int))
    weights.stored(home).refuse_beyond(claimed, f"config.json of {kind}")


def _check_transformer(directory: Path, home: Path, trust_remote_code: bool) -> None:
    """Refuse files that would lead the libraries out of the directory or to another kind of model."""
    if (home / "adapter_config.json").exists() or (directory / "adapter_config.json").exists():
        raise InvalidModel("the source is an adapter of another model; merge it into its base model first")
    if not (home / "config.json").is_file():
        raise InvalidModel("the transformer has no config.json")
    check(home, trust_remote_code=trust_remote_code)


def _check_weights(home: Path) -> Stored:
    names = [path.name for path in home.iterdir() if path.is_file()]
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise InvalidModel("the source has no weights: no .safetensors and no .bin file")
    weights.check_index(home)
    stored = weights.stored(home)
    if (home / "config.json").is_file():
        weights.check_depth("config.json", read_json(home / "config.json", dict), stored.tensors)
    return stored


def _weight_bytes(directory: Path, home: Path) -> int:
    files = [path for path in directory.rglob("*") if path.suffix in (".safetensors", ".bin")]
    # If there are two formats of the weights, only one is read.
    preferred = [path for path in files if path.suffix == ".safetensors"] or files
    config = read_json(home / "config.json", dict) if (home / "config.json").is_file() else {}
    is_half = str(config.get("dtype", config.get("torch_dtype"))) in ("float16", "bfloat16")
    found = [weights.of(path) for path in preferred if path.is_file()]
    return sum(4 * file.elements if file.tensors else file.unpacked * (2 if is_half else 1) for file in found)
