"""What the front end keeps in memory of each model: its manifest and its tokenizer.

A cache of the repository, not a truth: whoever finds it outdated calls `refresh`.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.errors import ModelConflict, ModelNotFound
from gateway.tokenizer import TextTokenizer
from triton_models.config import from_text
from triton_models.manifest import Manifest
from triton_models.names import served_name
from triton_models.repository import CONFIG, ModelNotInRepository, Repository


@dataclass(frozen=True)
class TextModel:
    """One model as a request needs it.

    max_rows: texts that one request to Triton may carry.
    empty_embedding: float32 [D], the vector of a text of no tokens, where the model has one.
    """

    served: str
    manifest: Manifest
    version: int
    tokenizer: TextTokenizer
    max_rows: int
    empty_embedding: NDArray[np.float32] | None


class Catalog:
    """Models by the name that callers use."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._models: dict[str, TextModel] = {}
        self._reading: dict[str, asyncio.Task[TextModel]] = {}

    async def get(self, model_name: str) -> TextModel:
        """The model, read from the repository the first time.

        Raises:
            ModelNotFound: it has not been converted, or another model holds its served name.
        """
        return self._models.get(model_name) or await self.refresh(model_name)

    async def refresh(self, model_name: str) -> TextModel:
        """Read the model again.

        Raises:
            ModelNotFound: as `get`.
        """
        task = self._reading.get(model_name)
        if task is None:
            # One reading for all who ask meanwhile: a tokenizer takes megabytes and milliseconds.
            task = self._reading[model_name] = asyncio.create_task(self._replace(model_name))
            task.add_done_callback(lambda _: self._reading.pop(model_name))
        return await asyncio.shield(task)

    async def _replace(self, model_name: str) -> TextModel:
        self._models.pop(model_name, None)
        model = await asyncio.to_thread(self._read, model_name)
        self._models[model_name] = model
        return model

    def _read(self, model_name: str) -> TextModel:
        served = served_name(model_name)
        try:
            manifest = self._repository.manifest(served)
        except ModelNotInRepository as error:
            raise not_loaded(model_name) from error
        if manifest.model_name != model_name:
            raise ModelNotFound(
                f"model {model_name} is not loaded; its served name {served} belongs to {manifest.model_name}"
            )
        directory = self._repository.version_dir(served)
        return TextModel(
            served=served,
            manifest=manifest,
            version=manifest.version,
            tokenizer=TextTokenizer(directory, manifest),
            max_rows=from_text((directory.parent / CONFIG).read_text()).max_batch_size,
            empty_embedding=self._repository.load_check(served).empty_embedding,
        )


def not_loaded(model_name: str) -> ModelNotFound:
    """The error for a model that could be loaded but is not."""
    return ModelNotFound(
        f"model {model_name} is not loaded; load it with POST /load_sentence_transformer_model "
        f'{{"model_name": "{model_name}"}}'
    )


def collision(model_name: str, holder: str) -> ModelConflict:
    """The error for two models of one served name."""
    return ModelConflict(
        f"model {model_name} would be served as {served_name(model_name)}, which is {holder}; "
        "delete that model first"
    )
