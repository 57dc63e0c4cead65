"""What is wrong with a model's files, in a line for the operator that names no path."""

import os

from triton_models.contract.manifest import ManifestError
from triton_models.repository.repository import CONFIG, ModelNotInRepository, Repository

AGAIN = "delete and load the model again"


def problem(repository: Repository, served: str) -> str | None:
    """Why a model could not be served; None where its files look whole. Reads the small ones only."""
    directory = repository.root / served
    if not directory.is_dir():
        there = os.path.lexists(directory)
        return f"{served} is no directory; {AGAIN}" if there else f"the files are missing; {AGAIN}"
    try:
        repository.config(served)
    except ModelNotInRepository:
        return f"{CONFIG} is missing; {AGAIN}"
    except ManifestError as error:
        return str(error)
    try:
        repository.manifest(served)
    except ModelNotInRepository:
        return f"the version that {CONFIG} names is missing or not complete; {AGAIN}"
    except (ManifestError, OSError):
        return f"model.json cannot be read; {AGAIN}"
    return None
