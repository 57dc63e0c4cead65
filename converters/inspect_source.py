"""What a model's directory says about itself, read before any library loads it.

sentence-transformers and transformers follow what a directory's configuration asks for: other
repositories, other files, code. Everything that leads outside the directory, or to a model that is
no text embedding model, is refused here. Knows nothing about torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InvalidModel

SUPPORTED_MODULES = frozenset(
    {"Transformer", "StaticEmbedding", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"}
)
"""Classes of sentence-transformers that the graph can hold, by the last part of their name."""

_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
)
# A pointer to another repository or directory, which no request may lead to.
_POINTERS = ("tokenizer_name_or_path", "base_model_name_or_path")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a source.

    transformer_dir: of the transformer (or the static embedding). weight_bytes: of all weights in float32.
    """

    transformer_dir: Path
    weight_bytes: int


def inspect(directory: Path, *, trust_remote_code: bool) -> Anatomy:
    """Read the configuration of a source.

    Raises:
        InvalidModel: not a model, broken, or of a kind that is not converted; says which and why.
    """
    first = ""
    is_static = False
    if (directory / "modules.json").is_file():
        first, is_static = _check_modules(directory, trust_remote_code=trust_remote_code)
    elif not (directory / "config.json").is_file():
        raise InvalidModel("the source is not a model: it has neither modules.json nor config.json")
    home = directory / first
    if not _is_directory(home):
        raise InvalidModel("modules.json names a path that is no directory of the model")
    if not is_static:
        _check_transformer(directory, home)
    _check_weights(home)
    if not any((home / name).is_file() for name in _TOKENIZER_FILES):
        raise InvalidModel("the source has no tokenizer: " + ", ".join(_TOKENIZER_FILES) + " are all missing")
    if (home / "tokenizer.json").is_file():
        _read_json(home / "tokenizer.json", dict)
    return Anatomy(home, _weight_bytes(directory, home))


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # A name that is too long, say.
        return False


def _check_modules(directory: Path, *, trust_remote_code: bool) -> tuple[str, bool]:
    """The first module's directory and whether it is a static embedding."""
    modules = _read_json(directory / "modules.json", list)
    if not modules:
        raise InvalidModel("modules.json lists no modules")
    for module in modules:
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
        if name.rpartition(".")[2] not in SUPPORTED_MODULES:
            raise InvalidModel(f"the module {name!r} is not supported")
    settings = directory / "config_sentence_transformers.json"
    if settings.is_file():
        kind = _read_json(settings, dict).get("model_type", "SentenceTransformer")
        if kind != "SentenceTransformer":
            raise InvalidModel(f"the source is a {kind}, not a SentenceTransformer")
    first = modules[0]
    kind = first["type"].rpartition(".")[2]
    if kind not in ("Transformer", "StaticEmbedding"):
        raise InvalidModel(f"the first module is {kind}; it must be Transformer or StaticEmbedding")
    return first["path"], kind == "StaticEmbedding"


def _check_transformer(directory: Path, home: Path) -> None:
    """Refuse what would lead the libraries out of the directory or to another kind of model."""
    if (home / "adapter_config.json").exists() or (directory / "adapter_config.json").exists():
        raise InvalidModel("the source is an adapter of another model; merge it into its base model first")
    if not (home / "config.json").is_file():
        raise InvalidModel("the transformer has no config.json")
    _read_json(home / "config.json", dict)
    for name in _TRANSFORMER_CONFIGS:
        if not (home / name).is_file():
            continue
        settings = _read_json(home / name, dict)
        for pointer in _POINTERS:
            if settings.get(pointer):
                raise InvalidModel(f"{name} points to another model ({pointer}), which is not followed")
        task = settings.get("transformer_task", "feature-extraction")
        if task != "feature-extraction":
            raise InvalidModel(
                f"the transformer's task is {task!r}; only 'feature-extraction' gives embeddings"
            )
        if settings.get("query_expansion"):
            raise InvalidModel("the model expands queries (query_expansion), which is not supported")


def _check_weights(home: Path) -> None:
    names = [path.name for path in home.iterdir() if path.is_file()]
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise InvalidModel("the source has no weights: no .safetensors and no .bin file")


def _weight_bytes(directory: Path, home: Path) -> int:
    files = [path for path in directory.rglob("*") if path.suffix in (".safetensors", ".bin")]
    # One form of the weights is read where there are two.
    preferred = [path for path in files if path.suffix == ".safetensors"] or files
    stored = sum(path.stat().st_size for path in preferred)
    config = _read_json(home / "config.json", dict) if (home / "config.json").is_file() else {}
    is_half = str(config.get("dtype", config.get("torch_dtype"))) in ("float16", "bfloat16")
    return stored * 2 if is_half else stored


def _read_json(path: Path, kind: type) -> Any:  # noqa: ANN401 - what a file of others holds
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path.name} is broken: {error}") from error
    if not isinstance(data, kind):
        raise InvalidModel(f"{path.name} is broken: it must hold a JSON {kind.__name__}")
    return data
