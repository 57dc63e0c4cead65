"""The manifests of a model's parts, as the repository has them."""

import itertools
from contextlib import suppress

from gateway.errors import ModelConflict
from gateway.model_id import ModelId
from triton_models.contract.manifest import Manifest, ManifestError
from triton_models.repository.repository import ModelNotInRepository, Repository


def manifests(repository: Repository, model_id: ModelId) -> dict[str, Manifest]:
    """Return the manifests of all parts of a model, by name in Triton.

    Raises:
        ModelNotInRepository: A part is missing, or the towers of a CLIP model are of two conversions.
        ManifestError: A manifest is damaged.
        ModelConflict: Another model has a part's name in Triton.
    """
    found = {triton_name: repository.manifest(triton_name) for triton_name in model_id.triton_names}
    for manifest in found.values():
        if ModelId.of(manifest) != model_id:
            raise collision(model_id, ModelId.of(manifest))
    if len({manifest.pair for manifest in found.values()}) > 1:
        return _pair(repository, model_id)
    return found


def manifests_of(repository: Repository, model_id: ModelId, versions: tuple[int, ...]) -> dict[str, Manifest]:
    """Return the manifests of these versions, one for each part in the order of `model_id.triton_names`.

    Raises:
        ModelNotInRepository, ManifestError: A manifest is missing or cannot be read.
    """
    return {
        triton_name: repository.manifest(triton_name, version)
        for triton_name, version in zip(model_id.triton_names, versions, strict=True)
    }


def _pair(repository: Repository, model_id: ModelId) -> dict[str, Manifest]:
    """Return the manifests of two towers of one pair, among the configured versions.

    While one pair replaces another, each tower has two versions, whose order changes tower by tower.

    Raises:
        ModelNotInRepository: No two towers are of one pair.
    """
    named = [repository.versions(triton_name) for triton_name in model_id.triton_names]
    for versions in itertools.product(*named):
        with suppress(ModelNotInRepository, ManifestError):
            found = manifests_of(repository, model_id, versions)
            if len({manifest.pair for manifest in found.values()}) == 1:
                return found
    raise ModelNotInRepository(f"the halves of {model_id} are of two conversions")


def collision(model_id: ModelId, holder: ModelId) -> ModelConflict:
    """Return the error for two models with the same name in Triton."""
    return ModelConflict(
        f"model {model_id} would be served as {model_id.text_triton_name}, which is {holder}; "
        "delete that model first"
    )
