"""One name for each model, whatever spelling a caller uses, and the error for a model that is not loaded.

A model of sentence-transformers is named with or without its owner, and a tag of open_clip in several ways.
All spellings mean one model, unless a directory of MODEL_SOURCES has the bare name: that is another model.
"""

import importlib.util
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from gateway.errors import ModelNotFound
from gateway.model_id import ModelId
from triton_models.contract.hub_names import PUBLISHED, WITHOUT_OWNER, clip_spellings, text_spellings
from triton_models.contract.manifest import Kind, Manifest, ManifestError
from triton_models.contract.names import HUB_PREFIX
from triton_models.repository.repository import ModelNotInRepository, Repository, RepositoryError

MOST_LISTED = 10
"""Most loaded models that an error lists."""

LONGEST_LIST = 600
"""Most characters of that list."""

KEPT_SECONDS = 1.0
"""The time for which a spelling is remembered."""

MOST_KEPT = 1000

Spelling = TypeVar("Spelling", str, ModelId)


class Spellings(Generic[Spelling]):
    """Remembers for a moment which model a spelling means, because `Names` reads files to find it.

    A model that takes over a spelling is therefore found after `KEPT_SECONDS` at the latest.
    """

    def __init__(self) -> None:
        self._meant: dict[Spelling, tuple[float, ModelId]] = {}

    def get(self, spelling: Spelling) -> ModelId | None:
        """Return the model that the spelling meant a moment ago; None if it is not known."""
        until, meant = self._meant.get(spelling, (0.0, None))
        return meant if time.monotonic() < until else None

    def remember(self, spelling: Spelling, model_id: ModelId) -> None:
        """Remember what the spelling means."""
        if len(self._meant) >= MOST_KEPT:
            self._meant.clear()
        self._meant[spelling] = time.monotonic() + KEPT_SECONDS, model_id


class Names:
    """The spellings that mean one model here. Its methods read files: the event loop must not call them.

    Args:
        repository: The model repository.
        sources: The directories of MODEL_SOURCES.
        trusted: Names that the operator expects to be loadable, as those of LOAD_MODELS.
    """

    def __init__(
        self, repository: Repository, sources: Iterable[Path] = (), trusted: Iterable[str] = ()
    ) -> None:
        self._repository = repository
        self._sources = tuple(sources)
        self._trusted = frozenset(trusted)

    def find(self, model_id: ModelId) -> ModelId:
        """Return the identity of the copy that is loaded, else converted; without one, `model_id` itself."""
        return self._held(model_id) or model_id

    def for_load(self, model_id: ModelId) -> ModelId:
        """Return the identity that a load must use: as `find`, but without a copy the library's own name."""
        return self._held(model_id) or _spellings(model_id)[0]

    def _held(self, model_id: ModelId) -> ModelId | None:
        spellings = _spellings(model_id)
        if not model_id.is_clip and len(spellings) > 1 and self._is_of_a_directory(spellings[-1]):
            return model_id
        held = [spelling for spelling in spellings if self._holds(spelling)]
        wanted = [one for one in held if self._repository.state(one.text_triton_name).wanted]
        return next(iter(wanted or held), None)

    def not_loaded(self, model_id: ModelId, what: str = "is not loaded") -> ModelNotFound:
        """Return the error for a model that is not there: what is loaded, and a load that can work.

        Args:
            model_id: The model.
            what: What the model is not.
        """
        loaded = self.loaded()
        listed: list[str] = []
        for name in loaded[:MOST_LISTED]:
            if listed and len(", ".join((*listed, name))) > LONGEST_LIST:
                break
            listed.append(name)
        more = f" and {len(loaded) - len(listed)} more" if len(loaded) > len(listed) else ""
        names = ", ".join(listed) + more if listed else "no model"
        return ModelNotFound(f"model {model_id} {what}; {self._advice(model_id)}. Loaded: {names}")

    def loaded(self) -> list[str]:
        """Return the names, sorted, of the models that are loaded or being loaded again."""
        return sorted({str(ModelId.of(manifest)) for manifest in self._loaded()})

    def loaded_of(self, kind: Kind) -> list[ModelId]:
        """Return the models of a kind that are loaded or being loaded again, sorted by name."""
        found = {ModelId.of(manifest) for manifest in self._loaded() if manifest.kind == kind}
        return sorted(found, key=lambda model_id: model_id.id)

    def _loaded(self) -> Iterator[Manifest]:
        for triton_name, state in self._repository.states().items():
            if state.wanted:
                with suppress(RepositoryError, ManifestError):
                    yield self._repository.manifest(triton_name)

    def _advice(self, model_id: ModelId) -> str:
        if model_id.is_clip:
            route, fields = "/load_clip_model", f'"model_name": "{model_id.model_name}"'
            if model_id.pretrained:
                fields += f', "pretrained": "{model_id.pretrained}"'
            takes = f"a name of open_clip, as ViT-B-32, with its tag, or {HUB_PREFIX}OWNER/NAME"
        else:
            route, fields = "/load_sentence_transformer_model", f'"model_name": "{model_id.model_name}"'
            takes = "OWNER/NAME of the Hugging Face Hub, or the name of a directory of MODEL_SOURCES"
        if self._can_be_loaded(model_id):
            return f"load it with POST {route} {{{fields}}}"
        return f"POST {route} takes {takes}"

    def _can_be_loaded(self, model_id: ModelId) -> bool:
        """Return whether a load may find this model; only a load itself can ask the Hub."""
        name = model_id.model_name
        if "/" in name or model_id.id in self._trusted or self._holds(model_id):
            return True
        if model_id.is_clip:
            return _is_architecture(name)
        return name in PUBLISHED or name.lower() in WITHOUT_OWNER or self._has_directory(name)

    def _is_of_a_directory(self, model_id: ModelId) -> bool:
        """Return whether a bare name is that of a model of MODEL_SOURCES, which is converted or could be."""
        with suppress(ModelNotInRepository, ManifestError):
            manifest = self._repository.manifest(model_id.text_triton_name)
            if ModelId.of(manifest) == model_id and manifest.source.kind == "directory":
                return True
        return self._has_directory(model_id.model_name)

    def _has_directory(self, name: str) -> bool:
        return any((root / name).is_dir() for root in self._sources)

    def _holds(self, model_id: ModelId) -> bool:
        """Return whether the repository holds this model, even a damaged one, or a failed load of it."""
        triton_name = model_id.text_triton_name
        try:
            return ModelId.of(self._repository.manifest(triton_name)) == model_id
        except ModelNotInRepository:
            return self._repository.holds(triton_name)
        except ManifestError:
            return True


def _spellings(model_id: ModelId) -> tuple[ModelId, ...]:
    """Return the identities that the libraries take for one model, the preferred one first."""
    if model_id.pretrained is None:
        return tuple(ModelId(name) for name in text_spellings(model_id.model_name))
    tags = clip_spellings(model_id.model_name, model_id.pretrained)
    return tuple(ModelId(model_id.model_name, tag) for tag in tags)


def _is_architecture(name: str) -> bool:
    """Return whether open_clip has an architecture of this name; looked up without importing torch."""
    spec = importlib.util.find_spec("open_clip")
    roots = () if spec is None else spec.submodule_search_locations or ()
    return any((Path(root) / "model_configs" / f"{name}.json").is_file() for root in roots)
