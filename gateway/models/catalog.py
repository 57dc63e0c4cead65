"""Caches models in the gateway's memory: manifest, tokenizer, image preprocessing.

The repository is authoritative; code that finds an entry outdated calls `refresh`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidModel, ModelConflict, ModelNotFound, WrongKind
from gateway.memory import give_back
from gateway.model_id import ModelId
from gateway.models.manifests import manifests
from gateway.models.names import Names, Spellings
from gateway.text.pairs import PairTokenizer
from gateway.text.tokenizer import TextTokenizer
from triton_models.contract.manifest import ImagePreprocessing, Manifest, ManifestError, Scoring
from triton_models.contract.names import TEXT_SUFFIX, InvalidModelName
from triton_models.repository.repository import DamagedModel, ModelNotInRepository, Repository


@dataclass(frozen=True)
class TextModel:
    """The data that a request needs of a text model, or of the text tower of a CLIP model.

    Attributes:
        model_id: The model.
        triton_name: The model's, or the tower's, name in Triton.
        manifest: The version's.
        version: The version in Triton.
        tokenizer: The version's.
        max_rows: Most texts in one request to Triton.
        empty_embedding: float32 [D], the vector of a text of no tokens; None if the model has none.
    """

    model_id: ModelId
    triton_name: str
    manifest: Manifest
    version: int
    tokenizer: TextTokenizer
    max_rows: int
    empty_embedding: NDArray[np.float32] | None

    @property
    def state(self) -> tuple[int, ...]:
        """The values that a request depends on and another load may change."""
        return self.version, self.max_rows


@dataclass(frozen=True)
class ImageModel:
    """The data that a request needs of the image tower of a CLIP model."""

    model_id: ModelId
    triton_name: str
    manifest: Manifest
    version: int
    preprocessing: ImagePreprocessing

    @property
    def state(self) -> tuple[int, ...]:
        """The values that a request depends on and another load may change."""
        return (self.version,)


@dataclass(frozen=True)
class PairModel:
    """The data that a request needs of a cross-encoder, as of a `TextModel`."""

    model_id: ModelId
    triton_name: str
    manifest: Manifest
    version: int
    tokenizer: PairTokenizer
    max_rows: int
    scoring: Scoring

    @property
    def state(self) -> tuple[int, ...]:
        """The values that a request depends on and another load may change."""
        return self.version, self.max_rows


Kept = TypeVar("Kept", bound=TextModel | ImageModel | PairModel)


class Models(Generic[Kept]):
    """Models by ModelId, each read from the repository when it is first used."""

    def __init__(self, read: Callable[[ModelId], Kept], find: Callable[[ModelId], ModelId]) -> None:
        self._read = read
        self._find = find
        self._spellings: Spellings[ModelId] = Spellings()
        self._models: dict[ModelId, Kept] = {}
        self.other_tower: Models[TextModel] | Models[ImageModel] | None = None
        self._reading: dict[ModelId, asyncio.Task[Kept]] = {}

    def __contains__(self, model_id: ModelId) -> bool:
        return model_id in self._models

    def known(self, model_id: ModelId) -> Kept | None:
        """Return the model if it is cached."""
        return self._models.get(model_id)

    async def get(self, model_id: ModelId) -> Kept:
        """Return the model, from the repository if it is not cached; its `model_id` may be spelled otherwise.

        Raises:
            ModelNotFound: The model has not been converted, or another model has its name in Triton.
        """
        for spelling in (model_id, self._spellings.get(model_id)):
            if spelling is not None and (known := self.known(spelling)) is not None:
                return known
        meant = await asyncio.to_thread(self._find, model_id)
        model = self.known(meant) or await self.refresh(meant)
        if meant != model_id:
            self._spellings.remember(model_id, meant)
        return model

    async def refresh(self, model_id: ModelId) -> Kept:
        """Read the model again.

        Raises:
            ModelNotFound: As `get`.
        """
        task = self._reading.get(model_id)
        if task is None:
            # Concurrent callers share one read: a tokenizer takes megabytes and milliseconds.
            task = self._reading[model_id] = asyncio.create_task(self._replace(model_id))
            task.add_done_callback(lambda _: self._reading.pop(model_id))
        return await asyncio.shield(task)

    async def _replace(self, model_id: ModelId) -> Kept:
        self._models.pop(model_id, None)
        model = await asyncio.to_thread(self._read, model_id)
        self._models[model_id] = model
        if self.other_tower is not None:
            self.other_tower.forget_other(model_id, model.manifest.pair)
        return model

    def keep_only(self, wanted: set[str]) -> bool:
        """Drop all models except these names in Triton; return whether any was dropped."""
        others = [known for known, model in self._models.items() if model.triton_name not in wanted]
        for model_id in others:
            del self._models[model_id]
        return bool(others)

    def forget_other(self, model_id: ModelId, pair: str | None) -> None:
        """Drop a model's tower if it belongs to another pair than `pair`."""
        known = self._models.get(model_id)
        if known is not None and known.manifest.pair != pair:
            del self._models[model_id]


class Catalog:
    """The caches of models: those that embed texts, those that embed images, and those that score pairs."""

    def __init__(self, repository: Repository, names: Names | None = None) -> None:
        self._repository = repository
        self.names = names or Names(repository)
        self.texts = Models(self._read_text, self.names.find)
        self.images = Models(self._read_image, self.names.find)
        self.pairs = Models(self._read_pairs, self.names.find)
        self.texts.other_tower, self.images.other_tower = self.images, self.texts
        self._spellings: Spellings[str] = Spellings()

    async def keep_only(self, wanted: set[str]) -> None:
        """Drop all models except these names in Triton, and return their memory to the system."""
        dropped = [models.keep_only(wanted) for models in (self.texts, self.images, self.pairs)]
        if any(dropped):
            await asyncio.to_thread(give_back)

    async def named(self, name: str) -> ModelId:
        """Return the model of a name: as `ModelId.parse` reads it, `NAME/PRETRAINED`, or a name in Triton.

        If the repository has none of these, return the first; a request to it then fails with a clear error.

        Raises:
            ModelNotFound: No model can have this name.
        """
        try:
            model_id = ModelId.parse(name)
        except InvalidModelName as error:
            raise ModelNotFound(f"no model can be named {name[:200]!r}: {error}") from error
        for spelling in (model_id, self._spellings.get(name)):
            if spelling is not None and (
                spelling in self.texts or spelling in self.images or spelling in self.pairs
            ):
                return spelling
        meant = await asyncio.to_thread(self._named, name, model_id)
        self._spellings.remember(name, meant)
        return meant

    def _named(self, name: str, first: ModelId) -> ModelId:
        model_name, _, pretrained = name.partition("/")
        for model_id in (self.names.find(first), first):
            with suppress(ModelNotInRepository, ManifestError, ModelConflict):
                manifests(self._repository, model_id)
                return model_id
        with suppress(ModelNotInRepository, ManifestError, ModelConflict, InvalidModelName):
            if pretrained:
                model_id = ModelId.named(model_name, pretrained)
                manifests(self._repository, model_id)
                return model_id
        for triton_name in () if pretrained or ":" in name else (name, name + TEXT_SUFFIX):
            with suppress(ModelNotInRepository, ManifestError):
                return ModelId.of(self._repository.manifest(triton_name))
        return first

    def _read_text(self, model_id: ModelId) -> TextModel:
        try:
            return self._text_model(model_id)
        except DamagedModel as error:
            raise InvalidModel(f"model {model_id} cannot be read: {error}") from error

    def _text_model(self, model_id: ModelId) -> TextModel:
        triton_name = model_id.text_triton_name
        manifest = self._manifests(model_id)[triton_name]
        if manifest.kind != "embedding":
            raise WrongKind(
                f"model {model_id} is a cross-encoder, which scores pairs of texts and embeds none; "
                "send it a query and documents by POST /rerank, or pairs by POST /predict"
            )
        directory = self._repository.version_dir(triton_name, manifest.version)
        return TextModel(
            model_id=model_id,
            triton_name=triton_name,
            manifest=manifest,
            version=manifest.version,
            tokenizer=TextTokenizer(directory, manifest),
            max_rows=self._repository.config(triton_name).max_batch_size,
            empty_embedding=self._repository.load_check(triton_name, manifest.version).empty_embedding,
        )

    def _read_image(self, model_id: ModelId) -> ImageModel:
        triton_name = model_id.image_triton_name
        manifest = self._manifests(model_id)[triton_name]
        assert manifest.image is not None
        return ImageModel(model_id, triton_name, manifest, manifest.version, manifest.image)

    def _read_pairs(self, model_id: ModelId) -> PairModel:
        triton_name = model_id.text_triton_name
        manifest = self._manifests(model_id)[triton_name]
        if manifest.scoring is None:
            raise WrongKind(
                f"model {model_id} is not a re-ranker model, it embeds; send it texts by POST /infer or "
                "POST /v1/embeddings, or load a cross-encoder to rank with"
            )
        directory = self._repository.version_dir(triton_name, manifest.version)
        try:
            tokenizer = PairTokenizer(directory, manifest)
        except DamagedModel as error:
            raise InvalidModel(f"model {model_id} cannot be read: {error}") from error
        return PairModel(
            model_id=model_id,
            triton_name=triton_name,
            manifest=manifest,
            version=manifest.version,
            tokenizer=tokenizer,
            max_rows=self._repository.config(triton_name).max_batch_size,
            scoring=manifest.scoring,
        )

    def _manifests(self, model_id: ModelId) -> dict[str, Manifest]:
        try:
            return manifests(self._repository, model_id)
        except (ModelNotInRepository, ManifestError) as error:
            raise self.names.not_loaded(model_id) from error
        except ModelConflict as error:
            raise ModelNotFound(f"model {model_id} is not loaded; {error}") from error


def no_tokens(model: TextModel) -> str:
    """Return the message for a request for token vectors to a model that has none."""
    if model.model_id.is_clip:
        return f"model {model.model_id} is a CLIP model, which gives one vector a text and none of its tokens"
    return (
        f"model {model.model_id} was converted by a version that kept no vectors of tokens; "
        "convert it again: POST /delete_model, then POST /load_sentence_transformer_model"
    )
