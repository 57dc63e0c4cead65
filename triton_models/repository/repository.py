"""The model repository on disk: complete models only, shared by any number of processes.

    <root>/<name>/config.pbtxt    names one version, and a second one while one replaces the other
    <root>/<name>/<version>/      model.onnx  model.json  tokenizer.json (text only)  check.npz  engine.json
    <root>/.state/                locks, staging and the models' states; Triton never looks inside

This module knows nothing about Triton's process or the network. Its error messages hold no paths.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from tritonclient.grpc.model_config_pb2 import ModelConfig

from triton_models.contract.checks import Check, DamagedCheck, ImageCheck
from triton_models.contract.config import ConfigError, from_text, served_versions, to_text, with_versions
from triton_models.contract.manifest import Manifest, ManifestError
from triton_models.repository import model_state
from triton_models.repository.atomic_files import (
    move_into_place,
    remove,
    remove_whole,
    sync_tree,
    write_atomic,
)
from triton_models.repository.model_state import ModelState

CONFIG = "config.pbtxt"
MODEL = "model.onnx"
MANIFEST = "model.json"
TOKENIZER = "tokenizer.json"
CHECK = "check.npz"
ENGINE = "engine.json"

AGAIN = "delete and load the model again"
"""What helps against damaged files; the end of messages about them."""

Recorded = TypeVar("Recorded")


class RepositoryError(Exception):
    """The base class of the errors raised here."""


class ModelNotInRepository(RepositoryError):
    """The repository has no complete model of that name."""


class ForeignModel(RepositoryError):
    """The repository holds something of that name that this server did not make, and will not touch."""

    def __init__(self, triton_name: str) -> None:
        super().__init__(
            f"this server did not make {triton_name} of the repository (no {MANIFEST}); move it away"
        )


class DamagedModel(RepositoryError, ManifestError):
    """A model's files exist but cannot be read."""


class Repository:
    """The model repository in the directory `root`, which is made if it does not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.state_dir = self.root / ".state"
        self._staging = self.state_dir / "staging"
        self._trash = self.state_dir / "trash"
        for directory in (self._staging, self._trash, self.state_dir / "locks", self.state_dir / "models"):
            directory.mkdir(parents=True, exist_ok=True)

    def triton_names(self) -> list[str]:
        """Return the names of all complete models, sorted."""
        names = []
        for entry in sorted(self.root.iterdir()):
            with suppress(ModelNotInRepository, DamagedModel):
                self.version_dir(entry.name)
                names.append(entry.name)
        return names

    def versions(self, triton_name: str) -> list[int]:
        """Return the versions in the configuration, first the one for requests; raise as `config`."""
        return served_versions(self.config(triton_name))

    def version_dir(self, triton_name: str, version: int | None = None) -> Path:
        """Return the directory of a version, by default of the one that requests are for.

        Raises:
            ModelNotInRepository: There is no such model, or the version is not complete.
            DamagedModel: `config.pbtxt` cannot be read.
        """
        model_dir = self._model_dir(triton_name)
        config = None
        while True:
            before, config = config, self.config(triton_name)
            directory = model_dir / str(version or served_versions(config)[0])
            if _is_whole(directory):
                return directory
            # The model may have been replaced since its configuration was read, which then has changed.
            if config == before:
                raise _absent(triton_name)

    def manifest(self, triton_name: str, version: int | None = None) -> Manifest:
        """Return the manifest of a version, by default of the one that requests are for.

        Raises:
            ModelNotInRepository: There is no complete model of that name.
            DamagedModel: `config.pbtxt` or `model.json` cannot be read, or do not belong together.
        """
        try:
            directory, content = self._read(triton_name, MANIFEST, version)
            manifest = Manifest.from_json(content.decode())
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(triton_name, f"{MANIFEST} is damaged") from error
        except ManifestError as error:
            raise _damaged(triton_name, str(error)) from error
        if str(manifest.version) != directory.name:
            raise _damaged(triton_name, f"{MANIFEST} is of another version")
        return manifest

    def load_check(self, triton_name: str, version: int | None = None) -> Check:
        """Return the texts and vectors recorded at conversion in `check.npz`; raise as `manifest`."""
        return self._load(triton_name, version, Check.read)

    def load_image_check(self, triton_name: str, version: int | None = None) -> ImageCheck:
        """Return the images and vectors recorded for an image tower; raise as `load_check`."""
        return self._load(triton_name, version, ImageCheck.read)

    def config(self, triton_name: str) -> ModelConfig:
        """Return Triton's configuration of a model.

        Raises:
            ModelNotInRepository, DamagedModel: The configuration does not exist; it cannot be read.
        """
        try:
            config = from_text((self._model_dir(triton_name) / CONFIG).read_text(encoding="utf-8"))
            served_versions(config)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _absent(triton_name) from error
        except (OSError, ConfigError, UnicodeDecodeError) as error:
            raise _damaged(triton_name, f"{CONFIG} is damaged") from error
        return config

    def set_config(self, triton_name: str, config: ModelConfig) -> None:
        """Replace a model's configuration atomically. The caller holds the model's lock."""
        write_atomic(self._model_dir(triton_name) / CONFIG, to_text(config))

    def engine(self, triton_name: str) -> dict[str, Any] | None:
        """Return the record of the engines' speed, if any (backends/onnxruntime/engine_selection.py)."""
        with suppress(OSError, ValueError, RecursionError):
            record = json.loads((self.version_dir(triton_name) / ENGINE).read_bytes())
            return record if isinstance(record, dict) else None
        return None

    @contextmanager
    def staging(self, triton_name: str) -> Iterator[Path]:
        """Yield an empty directory on the same file system to build a model in, removed on exit."""
        directory = self._staging / f"{triton_name}.{os.getpid()}"
        # The lock marks the directory as in use. It ends with the process, on whatever host that runs.
        with FileLock(f"{directory}.lock") as lock:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)

    def install(self, staged: Path, triton_name: str, *, beside: bool = False) -> None:
        """Move a built model (`config.pbtxt` and `<version>/` in `staged`) into its place atomically.

        The caller holds the model's lock. With `beside`, only the version's directory is added to the model;
        the caller names it in the configuration later, see `set_config` and `settle`.

        Raises:
            ModelNotInRepository, ForeignModel: `staged` is not complete; its place is not this server's.
        """
        version = str(served_versions(from_text((staged / CONFIG).read_text(encoding="utf-8")))[0])
        if not _is_whole(staged / version):
            raise ModelNotInRepository(f"{triton_name} was built incomplete")
        if self.is_foreign(triton_name):
            raise ForeignModel(triton_name)
        sync_tree(staged)
        model_dir = self._model_dir(triton_name)
        if beside:
            move_into_place(staged / version, model_dir / version, self._trash)
        else:
            move_into_place(staged, model_dir, self._trash)

    def settle(self, triton_name: str, version: int) -> None:
        """Drop all versions but this one, from the configuration and from the directories made here.

        The caller holds the model's lock. This raises as `config`.
        """
        config = self.config(triton_name)
        if served_versions(config) != [version]:
            self.set_config(triton_name, with_versions(config, [version]))
        for directory in self._model_dir(triton_name).iterdir():
            if directory.name.isdigit() and directory.name != str(version) and _is_whole(directory):
                remove_whole(directory, self._trash)

    def delete(self, triton_name: str) -> None:
        """Remove a model with all versions and its state. The caller holds the model's lock.

        Raises:
            ModelNotInRepository, ForeignModel: Nothing has that name; it is not this server's.
        """
        if self.is_foreign(triton_name):
            raise ForeignModel(triton_name)
        if not self.holds(triton_name):
            raise _absent(triton_name)
        with suppress(FileNotFoundError):
            remove_whole(self._model_dir(triton_name), self._trash)
        remove(self.state_path(triton_name))

    def holds(self, triton_name: str) -> bool:
        """Return whether this server made anything of that name, even if it is damaged."""
        has_state = os.path.lexists(self.state_path(triton_name))
        return has_state or any(self._model_dir(triton_name).glob(f"*/{MANIFEST}"))

    def is_foreign(self, triton_name: str) -> bool:
        """Return whether something else has that name: a file, or a directory without manifest and state."""
        directory = self._model_dir(triton_name)
        if not os.path.lexists(directory) or self.holds(triton_name):
            return False
        return not directory.is_dir() or any(directory.iterdir())

    def lock_path(self, triton_name: str) -> Path:
        """Return the file whose lock is held while a model is converted, loaded, unloaded or deleted."""
        return self.state_dir / "locks" / f"{triton_name}.lock"

    def state(self, triton_name: str) -> ModelState:
        """Return the state of a model; the default if none is recorded."""
        return model_state.read(self.state_path(triton_name))

    def set_state(self, triton_name: str, state: ModelState) -> None:
        """Record the state of a model, atomically for all processes; the default leaves no file."""
        model_state.write(self.state_path(triton_name), state)

    def states(self) -> dict[str, ModelState]:
        """Return the state of every model that has one, by name in Triton."""
        return model_state.read_all(self.state_dir / "models")

    def clean(self) -> None:
        """Remove the files that killed processes left behind, and keep those that a living one uses."""
        # A killed process leaves the directory, the lock's file or both.
        for name in {path.name.removesuffix(".lock") for path in self._staging.iterdir()}:
            lock = FileLock(self._staging / f"{name}.lock", timeout=0)
            with suppress(Timeout), lock:
                shutil.rmtree(self._staging / name, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
        for path in self._trash.iterdir():
            remove(path)

    def _read(self, triton_name: str, name: str, version: int | None) -> tuple[Path, bytes]:
        """Return a version's directory and one file of it, consistent even while the model is replaced."""
        directory = None
        while True:
            before, directory = directory, self.version_dir(triton_name, version)
            try:
                return directory, (directory / name).read_bytes()
            except FileNotFoundError:
                if directory == before:
                    raise

    def _load(self, triton_name: str, version: int | None, read: Callable[[bytes], Recorded]) -> Recorded:
        try:
            return read(self._read(triton_name, CHECK, version)[1])
        except (OSError, DamagedCheck) as error:
            raise _damaged(triton_name, f"{CHECK} is damaged") from error

    def _model_dir(self, triton_name: str) -> Path:
        if triton_name.startswith(".") or "/" in triton_name or "\0" in triton_name or not triton_name:
            raise _absent(triton_name)
        return self.root / triton_name

    def state_path(self, triton_name: str) -> Path:
        """Return the file of a model's state, see `states`."""
        return self.state_dir / "models" / f"{self._model_dir(triton_name).name}.json"


def _is_whole(directory: Path) -> bool:
    return all((directory / name).is_file() for name in (MODEL, MANIFEST))


def _damaged(triton_name: str, what: str) -> DamagedModel:
    return DamagedModel(f"{triton_name}: {what}; {AGAIN}")


def _absent(triton_name: str) -> ModelNotInRepository:
    return ModelNotInRepository(f"{triton_name} is not in the model repository")
