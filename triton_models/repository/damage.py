"""A diagnosis of a model's files, in one line for the operator that names no path."""

import os

from triton_models.contract.manifest import ManifestError
from triton_models.repository.repository import AGAIN, CONFIG, ModelNotInRepository, Repository


def diagnose(repository: Repository, triton_name: str) -> str | None:
    """Return why a model could not be served, or None if its files look complete; read only small files."""
    directory = repository.root / triton_name
    if not directory.is_dir():
        there = os.path.lexists(directory)
        return f"{triton_name} is no directory; {AGAIN}" if there else f"the files are missing; {AGAIN}"
    try:
        repository.config(triton_name)
    except ModelNotInRepository:
        return f"{CONFIG} is missing; {AGAIN}"
    except ManifestError as error:
        return str(error)
    try:
        repository.manifest(triton_name)
    except ModelNotInRepository:
        return f"the version that {CONFIG} names is missing or not complete; {AGAIN}"
    except (ManifestError, OSError):
        return f"model.json cannot be read; {AGAIN}"
    return None
