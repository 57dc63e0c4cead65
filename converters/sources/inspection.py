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
from converters.sources import router, sentencepiece_file, weights, words
from converters.sources.configuration import (
    EMBEDDING_TASK,
    PAIR_TASK,
    TOKENIZER_FILES,
    check,
    check_activation,
    check_keys,
    read_json,
)
from converters.sources.weights import Stored
from triton_models.contract.manifest import Kind

SUPPORTED_MODULES = frozenset(
    "Transformer CLIPModel StaticEmbedding WordEmbeddings BoW Pooling WeightedLayerPooling Dense LayerNorm "
    "Normalize Dropout Router Asym".split()
)
"""Classes of sentence-transformers that the graph supports, by the last part of their name."""

_REASONS = {
    "CNN": "its convolutions run over the padding of a batch, so vectors depend on the texts beside them",
    "LSTM": "it reads one token after the other, and the graph has all tokens of a batch in one row",
    "WordWeights": "multiply its weights into the vectors of WordEmbeddings and leave it out, which changes "
    "the lengths of vectors and not their directions",
}
"""Why a class of sentence-transformers is refused, or what to do instead."""
_ARCHITECTURES = {
    "longformer": "it pads and cuts texts by their length, which no exported graph can do",
    "xlnet": "torch cannot export its attention",
}
_TRANSFORMERS = ("Transformer", "CLIPModel")
_FIRST = (*_TRANSFORMERS, "StaticEmbedding", *words.WORD_MODULES)
_LAYER_POOLING = frozenset(
    "embedding_dimension word_embedding_dimension num_hidden_layers layer_start".split()
)
_PAIR_HEAD = "ForSequenceClassification"
# Heads in a checkpoint's `architectures` that make it a model for another task, whatever its encoder returns.
_OTHER_TASK = re.compile(
    r".*For(\w*Classification|\w*QuestionAnswering|MultipleChoice|NextSentencePrediction|CTC)"
)


@dataclass(frozen=True)
class SourceLayout:
    """The parts of a source.

    Attributes:
        transformer_dir: Directory of the first module.
        weight_bytes: Size of all weights in float32.
        stored: The weights of the transformer.
        notice: A sentence about the model that a caller should know; None if there is none.
        others: Directories and weights of the first modules of a Router's other routes.
        kind: Kind of the model.
    """

    transformer_dir: Path
    weight_bytes: int
    stored: Stored
    notice: str | None = None
    others: tuple[tuple[Path, Stored], ...] = ()
    kind: Kind = "embedding"


def inspect(directory: Path, *, trust_remote_code: bool) -> SourceLayout:
    """Read the configuration of a source.

    Raises:
        InvalidModel: The source is not a model, is broken, or cannot be converted; the message says why.
    """
    firsts = [("", "Transformer")]
    notice = None
    kind = _kind_of_source(directory)
    if (directory / "modules.json").is_file():
        firsts = _check_modules(directory, trust_remote_code=trust_remote_code)
    elif (directory / "config.json").is_file():
        notice = _check_task(read_json(directory / "config.json", dict), kind)
    else:
        raise InvalidModel("the source is not a model: it has neither modules.json nor config.json")
    found = []
    for number, (path, module) in enumerate(firsts):
        home = directory / path
        if not _is_directory(home):
            raise InvalidModel("modules.json names a path that is no directory of the model")
        if module in _TRANSFORMERS:
            _check_transformer(directory, home, kind, trust_remote_code)
        found.append((home, _check_first(home, module, of_texts=number == 0)))
    (home, stored), *others = found
    return SourceLayout(home, _weight_bytes(directory, home), stored, notice, tuple(others), kind)


def _check_first(home: Path, kind: str, *, of_texts: bool) -> Stored:
    """Check the files of a first module, and return its weights; one of images needs no tokenizer."""
    if kind == "BoW":
        words.check_counts(home)
        return weights.stored(home)
    stored = _check_weights(home)
    if kind == "WordEmbeddings":
        words.check_table(home, stored)
    elif (home / "tokenizer.json").is_file():
        read_json(home / "tokenizer.json", dict)
    elif any((home / name).is_file() for name in TOKENIZER_FILES):
        sentencepiece_file.check(home)
    elif of_texts:
        raise InvalidModel("the source has no tokenizer: " + ", ".join(TOKENIZER_FILES) + " are all missing")
    return stored


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # For example, the name is too long.
        return False


def _kind_of_source(directory: Path) -> Kind:
    """Return the kind of a model: its `model_type`, else by the head of its checkpoint.

    Raises:
        InvalidModel: The kind is not supported, or a cross-encoder's activation is not.
    """
    settings = directory / "config_sentence_transformers.json"
    own = read_json(settings, dict) if settings.is_file() else {}
    kind = own.get("model_type", "SentenceTransformer")
    if kind not in ("SentenceTransformer", "CrossEncoder"):
        raise InvalidModel(f"the source is a {kind}, neither a SentenceTransformer nor a CrossEncoder")
    path = directory / "config.json"
    config = read_json(path, dict) if path.is_file() else {}
    has_modules = (directory / "modules.json").is_file()
    if kind != "CrossEncoder" and (
        has_modules or not any(head.endswith(_PAIR_HEAD) for head in _heads(config))
    ):
        return "embedding"
    check_activation(settings.name, own.get("activation_fn"))
    nested = config.get("sentence_transformers")
    check_activation(path.name, nested.get("activation_fn") if isinstance(nested, dict) else None)
    check_activation(path.name, config.get("sbert_ce_default_activation_function"))
    return "cross-encoder"


def _heads(config: dict[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [one_line(str(name))[:100] for name in named] if isinstance(named, list) else []


def _check_task(config: dict[str, Any], kind: Kind) -> str | None:
    """Refuse a plain transformers checkpoint that is made for another task.

    Returns:
        A notice about an embedding model; None for a cross-encoder, for which such a checkpoint is usual.
    """
    if kind == "cross-encoder":
        return None
    heads = _heads(config)
    for head in heads:
        if _OTHER_TASK.fullmatch(head):
            raise InvalidModel(
                f"the source is a {head} and no embedding model: it has a head for another task (a "
                "classifier of tokens, say) and no modules.json"
            )
    return (
        f"it is no sentence-transformers model ({heads[0] if heads else 'config.json'}, no modules.json). "
        "As in that library its vectors are the mean of the last hidden states, of causal language models "
        "the last token's, for which it may not have been trained"
    )


def _check_modules(directory: Path, *, trust_remote_code: bool) -> list[tuple[str, str]]:
    """Check the modules, and return the directories and kinds of the first ones, that of texts first."""
    modules = read_json(directory / "modules.json", list)
    if not modules:
        raise InvalidModel("modules.json lists no modules")
    firsts: list[tuple[str, str]] = []
    for index, module in enumerate(modules):
        if not isinstance(module, dict) or not all(
            isinstance(module.get(key), str) for key in ("type", "path")
        ):
            raise InvalidModel("modules.json is broken: each module needs a type and a path")
        path = Path(module["path"])
        if path.is_absolute() or ".." in path.parts:
            raise InvalidModel(f"modules.json names a path outside of the model: {module['path']!r}")
        kind = _kind_of(module["type"], trust_remote_code)
        if kind in router.ROUTERS:
            firsts += _check_router(directory, path, index, trust_remote_code)
            continue
        if (kind in _FIRST) != (index == 0):
            raise InvalidModel(
                f"module {index} is {kind}; the first, and no other, must be one of {', '.join(_FIRST)}"
            )
        if index == 0:
            firsts.append((module["path"], kind))
        if not trust_remote_code:
            _check_module(directory / path, kind)
    return firsts


def _kind_of(name: str, trust_remote_code: bool) -> str:
    """Return the last part of a module's name, if it is supported."""
    if not name.startswith("sentence_transformers.") and not trust_remote_code:
        raise InvalidModel(f"the module {name!r} is code of the model's own, which is not run")
    kind = name.rpartition(".")[2]
    if kind not in SUPPORTED_MODULES:
        reason = f": {_REASONS[kind]}" if kind in _REASONS else ""
        raise InvalidModel(f"the module {name!r} is not supported{reason}")
    return kind


def _check_router(directory: Path, path: Path, index: int, trust_remote_code: bool) -> list[tuple[str, str]]:
    """Check the modules of a Router, and return the first modules of its routes, that of texts first.

    A Router that is not the first module of the model has none.
    """
    routing = router.read(directory / path)
    kinds = {folder: _kind_of(name, trust_remote_code) for folder, name in routing.types.items()}
    for route, folders in routing.routes.items():
        for place, folder in enumerate(folders):
            is_first = index == place == 0
            if kinds[folder] in router.ROUTERS or (kinds[folder] in _FIRST) != is_first:
                raise InvalidModel(f"module {place} of the Router's route {route[:100]!r} is {kinds[folder]}")
    if not trust_remote_code:
        for folder, kind in kinds.items():
            _check_module(directory / path / folder, kind)
    if index:
        return []
    of_texts = routing.route_of_text() or next(iter(routing.routes))
    begins = [folders[0] for folders in (routing.routes[of_texts], *routing.routes.values())]
    return [((path / folder).as_posix(), kinds[folder]) for folder in dict.fromkeys(begins)]


def _check_module(home: Path, kind: str) -> None:
    """Refuse a module whose configuration is broken, imports code outside torch.nn or exceeds its weights."""
    if not _is_directory(home) or not (home / "config.json").is_file():
        return
    config = read_json(home / "config.json", dict)
    if kind not in ("Dense", "LayerNorm", "WeightedLayerPooling"):
        return
    activation = str(config.get("activation_function"))
    # For classes of other libraries, sentence-transformers itself reports that they are not trusted.
    if activation.startswith("torch.") and not activation.startswith("torch.nn."):
        raise InvalidModel(f"{kind} names the activation {activation[:100]!r}, which is none of torch.nn")
    sizes = [config.get(key) for key in ("in_features", "out_features", "dimension")]
    claimed = math.prod(size for size in sizes if isinstance(size, int))
    if kind == "WeightedLayerPooling":
        check_keys(f"config.json of {kind}", config, _LAYER_POOLING)
        layers, start = config.get("num_hidden_layers", 12), config.get("layer_start", 4)
        if not isinstance(layers, int) or not isinstance(start, int) or start < 0:
            raise InvalidModel(f"config.json of {kind} is broken: it must hold numbers of layers")
        claimed = layers - start
    weights.stored(home).refuse_beyond(claimed, f"config.json of {kind}")


def _check_transformer(directory: Path, home: Path, kind: Kind, trust_remote_code: bool) -> None:
    """Refuse files that would lead the libraries out of the directory or to another kind of model."""
    if (home / "adapter_config.json").exists() or (directory / "adapter_config.json").exists():
        raise InvalidModel("the source is an adapter of another model; merge it into its base model first")
    if not (home / "config.json").is_file():
        raise InvalidModel("the transformer has no config.json")
    architecture = read_json(home / "config.json", dict).get("model_type")
    if reason := _ARCHITECTURES.get(str(architecture)):
        raise InvalidModel(
            f"models of the architecture {architecture} are not supported: {reason}; take another encoder of "
            "long texts, such as ModernBERT"
        )
    task = PAIR_TASK if kind == "cross-encoder" else EMBEDDING_TASK
    check(home, task=task, trust_remote_code=trust_remote_code)


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
