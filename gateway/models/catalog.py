"""What the front end keeps in memory of each model: its manifest, its tokenizer, its picture of an image.

A cache of the repository, not a truth: whoever finds it outdated calls `refresh`.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidModel, ModelConflict, ModelNotFound
from gateway.memory import give_back
from gateway.model_id import Reference
from gateway.text.tokenizer import TextTokenizer
from triton_models.contract.manifest import ImagePreprocessing, Manifest, ManifestError
from triton_models.contract.names import TEXT_SUFFIX, InvalidModelName
from triton_models.repository.repository import DamagedModel, ModelNotInRepository, Repository


@dataclass(frozen=True)
class TextModel:
    """A text model, or the text tower of a CLIP model, as a request needs it.

    max_rows: texts that one request to Triton may carry.
    empty_embedding: float32 [D], the vector of a text of no tokens, where the model has one.
    """

    reference: Reference
    served: str
    manifest: Manifest
    version: int
    tokenizer: TextTokenizer
    max_rows: int
    empty_embedding: NDArray[np.float32] | None

    @property
    def state(self) -> tuple[int, ...]:
        """What another load may change and a request depends on."""
        return self.version, self.max_rows


@dataclass(frozen=True)
class ImageModel:
    """The image tower of a CLIP model as a request needs it."""

    reference: Reference
    served: str
    manifest: Manifest
    version: int
    preprocessing: ImagePreprocessing

    @property
    def state(self) -> tuple[int, ...]:
        """What another load may change and a request depends on."""
        return (self.version,)


Kept = TypeVar("Kept", bound=TextModel | ImageModel)


class Models(Generic[Kept]):
    """Models by reference, each read from the repository the first time it is asked for."""

    def __init__(self, read: Callable[[Reference], Kept]) -> None:
        self._read = read
        self._models: dict[Reference, Kept] = {}
        self.other_tower: Models[TextModel] | Models[ImageModel] | None = None
        self._reading: dict[Reference, asyncio.Task[Kept]] = {}

    def __contains__(self, reference: Reference) -> bool:
        return reference in self._models

    def known(self, reference: Reference) -> Kept | None:
        """The model, if it was asked for before."""
        return self._models.get(reference)

    async def get(self, reference: Reference) -> Kept:
        """The model.

        Raises:
            ModelNotFound: it has not been converted, or another model holds its served name.
        """
        return self.known(reference) or await self.refresh(reference)

    async def refresh(self, reference: Reference) -> Kept:
        """Read the model again.

        Raises:
            ModelNotFound: as `get`.
        """
        task = self._reading.get(reference)
        if task is None:
            # One reading for all who ask meanwhile: a tokenizer takes megabytes and milliseconds.
            task = self._reading[reference] = asyncio.create_task(self._replace(reference))
            task.add_done_callback(lambda _: self._reading.pop(reference))
        return await asyncio.shield(task)

    async def _replace(self, reference: Reference) -> Kept:
        self._models.pop(reference, None)
        model = await asyncio.to_thread(self._read, reference)
        self._models[reference] = model
        if self.other_tower is not None:
            self.other_tower.forget_other(reference, model.manifest.pair)
        return model

    def keep_only(self, wanted: set[str]) -> bool:
        """Drop the models of all other served names; whether there were any."""
        others = [known for known, model in self._models.items() if model.served not in wanted]
        for reference in others:
            del self._models[reference]
        return bool(others)

    def forget_other(self, reference: Reference, pair: str | None) -> None:
        """Drop a tower that is of another pair than this."""
        known = self._models.get(reference)
        if known is not None and known.manifest.pair != pair:
            del self._models[reference]


class Catalog:
    """What embeds text, and what embeds images."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.texts = Models(self._read_text)
        self.images = Models(self._read_image)
        self.texts.other_tower, self.images.other_tower = self.images, self.texts

    async def keep_only(self, wanted: set[str]) -> None:
        """Drop the models of all other served names, and give back what their tokenizers took."""
        dropped = [self.texts.keep_only(wanted), self.images.keep_only(wanted)]
        if any(dropped):
            await asyncio.to_thread(give_back)

    async def named(self, name: str) -> Reference:
        """The model of a name in one word: as `Reference.parse` reads it, `NAME/PRETRAINED`, or served name.

        Where the repository has none of these it is the first; asking it for vectors says what is missing.

        Raises:
            ModelNotFound: no model can have this name.
        """
        try:
            reference = Reference.parse(name)
        except InvalidModelName as error:
            raise ModelNotFound(f"no model can be named {name[:200]!r}: {error}") from error
        if reference in self.texts or reference in self.images:
            return reference
        return await asyncio.to_thread(self._named, name, reference)

    def _named(self, name: str, first: Reference) -> Reference:
        model_name, _, pretrained = name.partition("/")
        with suppress(ModelNotInRepository, ManifestError, ModelConflict):
            manifests(self._repository, first)
            return first
        with suppress(ModelNotInRepository, ManifestError, ModelConflict, InvalidModelName):
            if pretrained:
                reference = Reference.named(model_name, pretrained)
                manifests(self._repository, reference)
                return reference
        for served in () if pretrained or ":" in name else (name, name + TEXT_SUFFIX):
            with suppress(ModelNotInRepository, ManifestError):
                return Reference.of(self._repository.manifest(served))
        return first

    def _read_text(self, reference: Reference) -> TextModel:
        try:
            return self._text_model(reference)
        except DamagedModel as error:
            raise InvalidModel(f"model {reference} cannot be read: {error}") from error

    def _text_model(self, reference: Reference) -> TextModel:
        served = reference.text_served
        manifest = self._manifests(reference)[served]
        directory = self._repository.version_dir(served, manifest.version)
        return TextModel(
            reference=reference,
            served=served,
            manifest=manifest,
            version=manifest.version,
            tokenizer=TextTokenizer(directory, manifest),
            max_rows=self._repository.config(served).max_batch_size,
            empty_embedding=self._repository.load_check(served, manifest.version).empty_embedding,
        )

    def _read_image(self, reference: Reference) -> ImageModel:
        served = reference.image_served
        manifest = self._manifests(reference)[served]
        assert manifest.image is not None
        return ImageModel(reference, served, manifest, manifest.version, manifest.image)

    def _manifests(self, reference: Reference) -> dict[str, Manifest]:
        try:
            return manifests(self._repository, reference)
        except (ModelNotInRepository, ManifestError) as error:
            raise not_loaded(reference) from error
        except ModelConflict as error:
            raise ModelNotFound(f"model {reference} is not loaded; {error}") from error


def manifests(repository: Repository, reference: Reference) -> dict[str, Manifest]:
    """The manifests of all parts of a model, by served name.

    Raises:
        ModelNotInRepository: there is none, or of a CLIP model only one half, or halves of two conversions.
        ManifestError: one is damaged.
        ModelConflict: the served name is another model's.
    """
    found = {served: repository.manifest(served) for served in reference.served}
    for manifest in found.values():
        if Reference.of(manifest) != reference:
            raise collision(reference, Reference.of(manifest))
    if len({manifest.pair for manifest in found.values()}) > 1:
        return _pair(repository, reference)
    return found


def manifests_of(
    repository: Repository, reference: Reference, versions: tuple[int, ...]
) -> dict[str, Manifest]:
    """The manifests of these versions, one for each part in the order of `reference.served`.

    Raises:
        ModelNotInRepository, ManifestError: one is not there, or cannot be read.
    """
    return {
        served: repository.manifest(served, version)
        for served, version in zip(reference.served, versions, strict=True)
    }


def _pair(repository: Repository, reference: Reference) -> dict[str, Manifest]:
    """Towers that belong together, of the versions that are named.

    Two of each are while one pair takes another's place, and their order changes tower by tower.

    Raises:
        ModelNotInRepository: there are none.
    """
    named = [repository.versions(served) for served in reference.served]
    for versions in itertools.product(*named):
        with suppress(ModelNotInRepository, ManifestError):
            found = manifests_of(repository, reference, versions)
            if len({manifest.pair for manifest in found.values()}) == 1:
                return found
    raise ModelNotInRepository(f"the halves of {reference} are of two conversions")


def not_loaded(reference: Reference) -> ModelNotFound:
    """The error for a model that could be loaded but is not."""
    fields = f'"model_name": "{reference.model_name}"'
    if reference.is_clip:
        route, fields = "/load_clip_model", f'{fields}, "pretrained": "{reference.pretrained}"'
    else:
        route = "/load_sentence_transformer_model"
    return ModelNotFound(f"model {reference} is not loaded; load it with POST {route} {{{fields}}}")


def collision(reference: Reference, holder: Reference) -> ModelConflict:
    """The error for two models of one served name."""
    return ModelConflict(
        f"model {reference} would be served as {reference.text_served}, which is {holder}; "
        "delete that model first"
    )


def no_tokens(model: TextModel) -> str:
    """What a caller is told who wants vectors of tokens from a model that has none."""
    if model.reference.is_clip:
        return (
            f"model {model.reference} is a CLIP model, which gives one vector a text and none of its tokens"
        )
    return (
        f"model {model.reference} was converted by a version that kept no vectors of tokens; "
        "convert it again: POST /delete_model, then POST /load_sentence_transformer_model"
    )
