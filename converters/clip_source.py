"""Where a CLIP model's architecture, weights and tokenizer come from, by the names that open_clip uses.

    ViT-B-32 + laion2b_s34b_b79k   open_clip's architecture, the tag's weights: below a source directory by
                                   the name of their Hub repository, in the Hub's cache, on the Hub
    ViT-B-32 + name.pt             a checkpoint file directly in a source directory
    hf-hub:owner/name              a repository with open_clip_config.json, from the same three places

What a configuration names in turn (tokenizers, text models of transformers) is looked for in the same
places; nothing else is read.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from converters import hub
from converters.errors import InvalidModel, SourceNotFound
from converters.progress import Progress
from triton_models.manifest import Source, fingerprint
from triton_models.names import CHECKPOINT_SUFFIXES, HUB_PREFIX, InvalidModelName, validate_model_name

CONFIG = "open_clip_config.json"
_TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_TOKENIZER_MARKS = ("tokenizer.json", "tokenizer_config.json")
_COMPANION_MARKS = (*_TOKENIZER_MARKS, "config.json")
_WEIGHTS = (HF_SAFE_WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", HF_WEIGHTS_NAME)
_MOST_TAGS = 12


@dataclass(frozen=True)
class ClipFound:
    """One model's parts.

    config: open_clip's `model_cfg`; models of transformers in it are named by directory. preprocess: what
    the source says of `preprocess_cfg`. checkpoint: the weights. tokenizer_files: none for open_clip's own.
    """

    config: dict[str, Any]
    preprocess: dict[str, Any]
    checkpoint: Path
    tokenizer_files: list[Path]
    source: Source


def find(model_name: str, pretrained: str, source_dirs: Sequence[Path], progress: Progress) -> ClipFound:
    """Look for a model in all sources in their order.

    model_name, pretrained: accepted by `validate_clip_name`.

    Raises:
        SourceNotFound: no such architecture, tag, file or repository, or the Hub cannot be reached.
        InvalidModel: what is there is not a model of open_clip.
    """
    progress.step("download", 0.0, f"Looking for {model_name} {pretrained}".rstrip())
    places = _Places(source_dirs, progress)
    if model_name.startswith(HUB_PREFIX):
        found = _repository(model_name.removeprefix(HUB_PREFIX), places)
    else:
        config = open_clip.get_model_config(model_name)
        if config is None:
            raise SourceNotFound(f"open_clip has no architecture {model_name!r}")
        found = _builtin(model_name, pretrained, config, places)
    progress.step("download", 1.0, f"Found {model_name} ({found.source.kind})")
    return found


class _Places:
    """The three places, in their order: source directories, the Hub's cache, the Hub."""

    def __init__(self, source_dirs: Sequence[Path], progress: Progress) -> None:
        self.roots = [root.absolute() for root in source_dirs]
        self._progress = progress

    def file(self, repo: str, names: Sequence[str]) -> tuple[Path, Source]:
        """The first of `names` that the repository has.

        Raises:
            SourceNotFound: nowhere.
        """
        for name in names:
            for root in self.roots:
                path = root / repo / name
                if path.is_file():
                    return path, Source("directory", str(path), None, fingerprint(path))
        for name in names:
            cached = hub.cached_file(repo, name)
            if cached is not None:
                return cached, Source("cache", str(cached), cached.parent.name, fingerprint(cached))

        def chosen(files: list[str]) -> list[str]:
            return [next((name for name in names if name in files), names[-1])]

        directory = hub.download(repo, None, self._progress, chosen)
        for name in names:
            if (directory / name).is_file():
                path = directory / name
                return path, Source("hub", str(path), directory.name, fingerprint(path))
        raise SourceNotFound(f"{repo} on the Hugging Face Hub has no {' and no '.join(names)}")

    def companion(self, name: Any) -> Path:  # noqa: ANN401 - what a file of others holds
        """The directory of a tokenizer or of a text model's configuration, by its name on the Hub.

        Raises:
            SourceNotFound: nowhere. InvalidModel: no such name can be.
        """
        try:
            validate_model_name(str(name))
        except InvalidModelName as error:
            raise InvalidModel(f"the configuration names {str(name)[:100]!r}, which is no model") from error
        for root in self.roots:
            if any((root / name / mark).is_file() for mark in _COMPANION_MARKS):
                return root / str(name)
        for mark in _COMPANION_MARKS:
            cached = hub.cached_file(name, mark)
            if cached is not None:
                return cached.parent

        def chosen(files: list[str]) -> list[str]:
            return [file for file in files if "/" not in file and file.endswith(_TOKENIZER_SUFFIXES)]

        try:
            return hub.download(name, None, self._progress, chosen)
        except SourceNotFound as error:
            raise SourceNotFound(
                f"the model needs the tokenizer or configuration of {name}: {error}"
            ) from error


def _builtin(model_name: str, pretrained: str, config: dict[str, Any], places: _Places) -> ClipFound:
    """An architecture of open_clip with the weights of a tag or of a file."""
    if pretrained.endswith(CHECKPOINT_SUFFIXES):
        paths = [root / pretrained for root in places.roots]
        checkpoint = next((path for path in paths if path.is_file()), None)
        if checkpoint is None:
            raise SourceNotFound(f"no source directory (MODEL_SOURCES) holds a file {pretrained!r}")
        source = Source("file", str(checkpoint), None, fingerprint(checkpoint))
        return _found(config, {}, checkpoint, source, None, places)
    tag = get_pretrained_cfg(model_name, pretrained)
    repo, _, name = tag.get("hf_hub", "").rpartition("/")
    if not repo:
        tags = list_pretrained_tags_by_model(model_name)
        known = ", ".join(tags[:_MOST_TAGS]) + (", ..." if len(tags) > _MOST_TAGS else "")
        raise SourceNotFound(
            f"open_clip knows no weights {pretrained!r} for {model_name}; it knows: {known or 'none'}"
        )
    safe = [name.rpartition(".")[0] + ".safetensors"] if name.endswith((".bin", ".pth")) else []
    checkpoint, source = places.file(repo, [*safe, name] if name else _WEIGHTS)
    return _found(config, tag, checkpoint, source, None, places)


def _repository(repo: str, places: _Places) -> ClipFound:
    """A repository that holds configuration and weights."""
    path, _ = places.file(repo, [CONFIG])
    checkpoint, source = places.file(repo, _WEIGHTS)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        parts = [data["model_cfg"], data.get("preprocess_cfg") or {}]
        parts += [parts[0]["text_cfg"], parts[0]["vision_cfg"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidModel(f"{CONFIG} is broken: {error!r}") from error
    if not all(isinstance(part, dict) for part in parts):
        raise InvalidModel(f"{CONFIG} is broken: its parts must be JSON objects")
    # A directory brings its tokenizer along; open_clip takes that of a repository by the name it is given.
    home = path.parent if any(path.is_relative_to(root) for root in places.roots) else None
    return _found(parts[0], parts[1], checkpoint, source, home, places)


def _found(
    config: dict[str, Any],
    preprocess: dict[str, Any],
    checkpoint: Path,
    source: Source,
    home: Path | None,
    places: _Places,
) -> ClipFound:
    config = deepcopy(config)
    text = config["text_cfg"]
    if ":" in str(config.get("vision_cfg", {}).get("timm_model_name", "")):
        raise InvalidModel("the configuration's timm_model_name leads out of timm, which is not followed")
    tokenizer_files: list[Path] = []
    if text.get("hf_tokenizer_name"):
        if home is None or not any((home / mark).is_file() for mark in _TOKENIZER_MARKS):
            home = places.companion(text["hf_tokenizer_name"])
        tokenizer_files = [
            path
            for path in sorted(home.iterdir())
            if path.suffix in _TOKENIZER_SUFFIXES and path.name != CONFIG
        ]
    if text.get("hf_model_name"):
        text["hf_model_name"] = str(places.companion(text["hf_model_name"]))
    kept = {key: value for key, value in preprocess.items() if key not in ("url", "hf_hub")}
    return ClipFound(config, kept, checkpoint, tokenizer_files, source)
