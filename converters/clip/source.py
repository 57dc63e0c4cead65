"""Sources of a CLIP model's architecture, weights and tokenizer, by the names that open_clip uses.

    ViT-B-32 + laion2b_s34b_b79k   open_clip's architecture with the tag's weights: in a source directory, by
                                   the name of their Hub repository, in the Hub's cache, or on the Hub
    ViT-B-32 + name.pt             a checkpoint file directly in a source directory
    hf-hub:owner/name              a repository with open_clip_config.json, from the same three places

Tokenizers and transformers text models that a configuration names are looked up in the same places. Nothing
else is read.
"""

import json
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from converters.errors import InvalidModel, SourceNotFound, describe
from converters.progress import Progress
from converters.sources import configuration, hub
from converters.sources.configuration import check_keys
from converters.sources.find import refuse_links_out
from converters.sources.weights import check_depth
from triton_models.contract.manifest import Source, fingerprint
from triton_models.contract.names import (
    CHECKPOINT_SUFFIXES,
    HUB_PREFIX,
    InvalidModelName,
    validate_model_name,
)

CONFIG = "open_clip_config.json"

_TOWER = (
    "act_kwargs block_type final_ln_after_pool layers ls_init_value mlp_ratio norm_kwargs output_tokens "
    "pool_type qk_norm scale_attn scale_attn_inner scale_fc scale_heads scaled_cosine_attn width"
)
TEXT_KEYS = frozenset(
    f"{_TOWER} context_length embed_cls eos_id heads hf_model_name hf_model_pretrained hf_pooler_type "
    "hf_proj_type hf_tokenizer_name no_causal_mask pad_id proj_bias proj_type tokenizer_kwargs "
    "tokenizer_mode vocab_size".split()
)
VISION_KEYS = frozenset(
    f"{_TOWER} attentional_pool attn_pooler_heads attn_pooler_queries head_width image_size no_ln_pre "
    "patch_dropout patch_size pos_embed_type timm_drop timm_drop_path timm_model_name timm_model_pretrained "
    "timm_pool timm_proj timm_proj_bias".split()
)
"""Keys that open_clip 3.3 reads from `text_cfg` and `vision_cfg`; a test compares them with its own lists."""
_MODEL_KEYS = frozenset(
    "custom_text embed_dim init_logit_bias init_logit_scale multimodal_cfg nonscalar_logit_scale output_dict "
    "pad_id quick_gelu text_cfg vision_cfg".split()
)
MULTIMODAL_KEYS = TEXT_KEYS | frozenset("attn_pooler_heads dim_head n_queries".split())
_TOKENIZER_KEYS = frozenset(
    "clean do_lower_case language model_max_length padding_side strip_sep_token truncation_side "
    "use_fast".split()
)
_TIMM_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_TOKENIZER_MARKS = ("tokenizer.json", "tokenizer_config.json")
_COMPANION_MARKS = (*_TOKENIZER_MARKS, "config.json")
_WEIGHTS = (HF_SAFE_WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", HF_WEIGHTS_NAME)
_MOST_TAGS = 12


@dataclass(frozen=True)
class ClipFound:
    """The parts of one model.

    Attributes:
        config: open_clip's `model_cfg`; it names transformers models by their directory.
        preprocess: The entries of `preprocess_cfg` that the source gives.
        checkpoint: File of the weights.
        tokenizer_files: Files of the tokenizer; empty for open_clip's own.
        source: Origin of the weights, as it is recorded.
    """

    config: dict[str, Any]
    preprocess: dict[str, Any]
    checkpoint: Path
    tokenizer_files: list[Path]
    source: Source


def find(model_name: str, pretrained: str, source_dirs: Sequence[Path], progress: Progress) -> ClipFound:
    """Look for a model in all sources in their order.

    `validate_clip_name` must have accepted `model_name` and `pretrained`.

    Raises:
        SourceNotFound: No such architecture, tag, file or repository exists, or the Hub cannot be reached.
        InvalidModel: The source is not a model of open_clip.
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
    """The three places that are searched, in their order: source directories, the Hub's cache, the Hub."""

    def __init__(self, source_dirs: Sequence[Path], progress: Progress) -> None:
        self.roots = [root.absolute() for root in source_dirs]
        self._progress = progress

    def file(self, repo: str, names: Sequence[str]) -> tuple[Path, Source]:
        """Return the first of `names` that the repository has, and its source.

        Raises:
            SourceNotFound: No place has any of them.
        """
        for name in names:
            for root in self.roots:
                path = root / repo / name
                if path.is_file():
                    refuse_links_out(root / repo, self.roots)
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

    def companion(self, name: Any) -> Path:  # noqa: ANN401 - JSON of a model's file
        """Return the directory of a tokenizer or of a text model's configuration, by its name on the Hub.

        Raises:
            SourceNotFound: No place has it.
            InvalidModel: The name is not a valid model name.
        """
        try:
            validate_model_name(str(name))
        except InvalidModelName as error:
            raise InvalidModel(f"the configuration names {str(name)[:100]!r}, which is no model") from error
        for root in self.roots:
            if any((root / name / mark).is_file() for mark in _COMPANION_MARKS):
                refuse_links_out(root / str(name), self.roots)
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
    """Find an architecture of open_clip with the weights of a tag or of a file."""
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
    """Find a repository with a configuration and weights."""
    path, _ = places.file(repo, [CONFIG])
    checkpoint, source = places.file(repo, _WEIGHTS)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        parts = [data["model_cfg"], data.get("preprocess_cfg") or {}]
        parts += [parts[0]["text_cfg"], parts[0]["vision_cfg"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidModel(f"{CONFIG} is broken: {describe(error)}") from error
    if not all(isinstance(part, dict) for part in parts):
        raise InvalidModel(f"{CONFIG} is broken: its parts must be JSON objects")
    # A directory contains its tokenizer. For a repository, open_clip uses the tokenizer that the
    # configuration names.
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
    check(config)
    tokenizer_files: list[Path] = []
    if text.get("hf_tokenizer_name"):
        if home is None or not any((home / mark).is_file() for mark in _TOKENIZER_MARKS):
            home = places.companion(text["hf_tokenizer_name"])
        configuration.check(home)
        tokenizer_files = [
            path
            for path in sorted(home.iterdir())
            if path.suffix in _TOKENIZER_SUFFIXES and path.name != CONFIG
        ]
    if text.get("hf_model_name"):
        model_home = places.companion(text["hf_model_name"])
        configuration.check(model_home)
        text["hf_model_name"] = str(model_home)
    kept = {key: value for key, value in preprocess.items() if key not in ("url", "hf_hub")}
    return ClipFound(config, kept, checkpoint, tokenizer_files, source)


def check(config: dict[str, Any]) -> None:
    """Refuse values that open_clip would pass to functions that open files, ask the Hub or run code."""
    check_keys("model_cfg", dict.fromkeys(config), _MODEL_KEYS)
    named = ("hf_model_name", "hf_tokenizer_name")
    parts = {"text_cfg": TEXT_KEYS, "vision_cfg": VISION_KEYS, "multimodal_cfg": MULTIMODAL_KEYS}
    for part, allowed in parts.items():
        settings = config.get(part)
        # This program looks up the two names itself and refuses paths with a message of its own.
        given = (
            {k: None if k in named else v for k, v in settings.items()}
            if isinstance(settings, dict)
            else settings
        )
        check_keys(part, given, allowed)
        for key in ("act_kwargs", "norm_kwargs"):
            check_keys(f"{part}: {key}", (settings or {}).get(key), frozenset({"approximate", "eps"}))
        check_keys(f"{part}: tokenizer_kwargs", (settings or {}).get("tokenizer_kwargs"), _TOKENIZER_KEYS)
    timm = config["vision_cfg"].get("timm_model_name") if isinstance(config.get("vision_cfg"), dict) else None
    if timm is not None and not _TIMM_NAME.fullmatch(str(timm)):
        raise InvalidModel("the configuration's timm_model_name leads out of timm, which is not followed")
    check_depth("model_cfg", config, 0)
