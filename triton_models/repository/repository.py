"""The model repository on disk: what exists, whole models only, shared by any number of processes.

    <root>/<served>/config.pbtxt        names one version, and a second while one takes the other's place
    <root>/<served>/<version>/          model.onnx  model.json  tokenizer.json  check.npz  engine.json
                                        (an image tower has no tokenizer)
    <root>/.state/                      locks, staging, what is wanted; Triton never looks inside

Knows nothing about Triton's process or the network. Messages of its errors hold no paths.

    RepositoryError
    ├── ModelNotInRepository
    ├── ForeignModel
    └── DamagedModel (also a ManifestError)
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

Recorded = TypeVar("Recorded")


class RepositoryError(Exception):
    """The base of what is raised here."""


class ModelNotInRepository(RepositoryError):
    """No complete model of that name."""


class ForeignModel(RepositoryError):
    """The repository holds something of that name that this server did not make, and so does not touch."""

    def __init__(self, served: str) -> None:
        super().__init__(f"this server did not make {served} of the repository (no {MANIFEST}); move it away")


class DamagedModel(RepositoryError, ManifestError):
    """A model's files are there but cannot be read."""


class Repository:
    """The directory `root`, made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.state_dir = self.root / ".state"
        self._staging = self.state_dir / "staging"
        self._trash = self.state_dir / "trash"
        for directory in (self._staging, self._trash, self.state_dir / "locks", self.state_dir / "models"):
            directory.mkdir(parents=True, exist_ok=True)

    def served_names(self) -> list[str]:
        """The names of all complete models, sorted."""
        names = []
        for entry in sorted(self.root.iterdir()):
            with suppress(ModelNotInRepository, DamagedModel):
                self.version_dir(entry.name)
                names.append(entry.name)
        return names

    def versions(self, served: str) -> list[int]:
        """Those that the configuration names, first the one that requests are for; raises as `config`."""
        return served_versions(self.config(served))

    def version_dir(self, served: str, version: int | None = None) -> Path:
        """The directory of a version; by default of the one that requests are for.

        Raises:
            ModelNotInRepository: no such model, or the version is not complete.
            DamagedModel: `config.pbtxt` cannot be read.
        """
        model_dir = self._model_dir(served)
        config = None
        while True:
            before, config = config, self.config(served)
            directory = model_dir / str(version or served_versions(config)[0])
            if _is_whole(directory):
                return directory
            # The model may have been replaced since its configuration was read: then that is another now.
            if config == before:
                raise _absent(served)

    def manifest(self, served: str, version: int | None = None) -> Manifest:
        """What is recorded about a version; by default about the one that requests are for.

        Raises:
            ModelNotInRepository: no complete model of that name.
            DamagedModel: `config.pbtxt` or `model.json` cannot be read, or do not belong together.
        """
        try:
            directory, content = self._read(served, MANIFEST, version)
            manifest = Manifest.from_json(content.decode())
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedModel(f"{served}: model.json is damaged; delete and load the model again") from error
        except ManifestError as error:
            raise DamagedModel(f"{served}: {error}; delete and load the model again") from error
        if str(manifest.version) != directory.name:
            raise DamagedModel(f"{served}: {MANIFEST} is of another version; delete and load the model again")
        return manifest

    def load_check(self, served: str, version: int | None = None) -> Check:
        """The texts and vectors recorded at conversion.

        Raises:
            ModelNotInRepository: no complete model of that name.
            DamagedModel: `check.npz` is missing, cannot be read or does not fit itself.
        """
        return self._load(served, version, Check.read)

    def load_image_check(self, served: str, version: int | None = None) -> ImageCheck:
        """The same of an image tower; raises the same."""
        return self._load(served, version, ImageCheck.read)

    def config(self, served: str) -> ModelConfig:
        """Triton's configuration of a model.

        Raises:
            ModelNotInRepository, DamagedModel: it is not there or cannot be read.
        """
        try:
            config = from_text((self._model_dir(served) / CONFIG).read_text(encoding="utf-8"))
            served_versions(config)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _absent(served) from error
        except (OSError, ConfigError, UnicodeDecodeError) as error:
            raise DamagedModel(f"{served}: {CONFIG} is damaged; delete and load the model again") from error
        return config

    def set_config(self, served: str, config: ModelConfig) -> None:
        """Replace a model's configuration at once. The caller holds `lock(served)`."""
        write_atomic(self._model_dir(served) / CONFIG, to_text(config))

    def engine(self, served: str) -> dict[str, Any] | None:
        """What was measured of the engines on the CPU (backends/onnxruntime/selection.py), if anything."""
        with suppress(OSError, ValueError, RecursionError):
            record = json.loads((self.version_dir(served) / ENGINE).read_bytes())
            return record if isinstance(record, dict) else None
        return None

    @contextmanager
    def staging(self, served: str) -> Iterator[Path]:
        """An empty directory to build a model in, of the same file system, removed on exit."""
        directory = self._staging / f"{served}.{os.getpid()}"
        # The lock says that the directory is in use; it ends with the process, whatever its id and host.
        with FileLock(f"{directory}.lock") as lock:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)

    def install(self, staged: Path, served: str, *, beside: bool = False) -> None:
        """Move a built model (`config.pbtxt` and `<version>/` in `staged`) into its place.

        Readers and a kill at any moment find the model as it was or as it is now. The caller holds
        `lock(served)`. beside: keep what is there, add the version's directory alone; the configuration
        names it later, see `set_config` and `settle`.

        Raises:
            ModelNotInRepository, ForeignModel: `staged` is not complete; its place is not this server's.
        """
        version = str(served_versions(from_text((staged / CONFIG).read_text(encoding="utf-8")))[0])
        if not _is_whole(staged / version):
            raise ModelNotInRepository(f"{served} was built incomplete")
        if self.is_foreign(served):
            raise ForeignModel(served)
        sync_tree(staged)
        model_dir = self._model_dir(served)
        if beside:
            move_into_place(staged / version, model_dir / version, self._trash)
        else:
            move_into_place(staged, model_dir, self._trash)

    def settle(self, served: str, version: int) -> None:
        """Leave this version alone: in the configuration, and of the directories that were made here.

        The caller holds `lock(served)`.

        Raises:
            ModelNotInRepository, DamagedModel: as `config`.
        """
        config = self.config(served)
        if served_versions(config) != [version]:
            self.set_config(served, with_versions(config, [version]))
        for directory in self._model_dir(served).iterdir():
            if directory.name.isdigit() and directory.name != str(version) and _is_whole(directory):
                remove_whole(directory, self._trash)

    def delete(self, served: str) -> None:
        """Remove a model, all versions, and what is known about it. The caller holds `lock(served)`.

        Raises:
            ModelNotInRepository, ForeignModel: nothing of that name, or not this server's.
        """
        if self.is_foreign(served):
            raise ForeignModel(served)
        if not self.holds(served):
            raise _absent(served)
        with suppress(FileNotFoundError):
            remove_whole(self._model_dir(served), self._trash)
        remove(self.state_path(served))

    def holds(self, served: str) -> bool:
        """Whether anything of a model is here that this server made, be it damaged."""
        has_state = os.path.lexists(self.state_path(served))
        return has_state or any(self._model_dir(served).glob(f"*/{MANIFEST}"))

    def is_foreign(self, served: str) -> bool:
        """Whether others made what has that name: there is no manifest in it, and no state of it."""
        directory = self._model_dir(served)
        if not os.path.lexists(directory) or self.holds(served):
            return False
        return not directory.is_dir() or any(directory.iterdir())

    def lock_path(self, served: str) -> Path:
        """The file whose lock is held while a model is converted, loaded, unloaded or deleted."""
        return self.state_dir / "locks" / f"{served}.lock"

    def state(self, served: str) -> ModelState:
        """What is known about a model; the default for one that nothing was ever done with."""
        return model_state.read(self.state_path(served))

    def set_state(self, served: str, state: ModelState) -> None:
        """Record what is known about a model, at once for all processes; the default leaves no file."""
        model_state.write(self.state_path(served), state)

    def states(self) -> dict[str, ModelState]:
        """The state of every model that has one, by served name."""
        return model_state.read_all(self.state_dir / "models")

    def clean(self) -> None:
        """Remove what killed processes left behind; what a living one uses stays."""
        # A kill leaves the directory, the lock's file or both.
        for name in {path.name.removesuffix(".lock") for path in self._staging.iterdir()}:
            lock = FileLock(self._staging / f"{name}.lock", timeout=0)
            with suppress(Timeout), lock:
                shutil.rmtree(self._staging / name, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
        for path in self._trash.iterdir():
            remove(path)

    def _read(self, served: str, name: str, version: int | None) -> tuple[Path, bytes]:
        """The version's directory and one file of it, both of the same model while it is replaced."""
        directory = None
        while True:
            before, directory = directory, self.version_dir(served, version)
            try:
                return directory, (directory / name).read_bytes()
            except FileNotFoundError:
                if directory == before:
                    raise

    def _load(self, served: str, version: int | None, read: Callable[[bytes], Recorded]) -> Recorded:
        try:
            return read(self._read(served, CHECK, version)[1])
        except (OSError, DamagedCheck) as error:
            raise DamagedModel(f"{served}: {CHECK} is damaged; delete and load the model again") from error

    def _model_dir(self, served: str) -> Path:
        if served.startswith(".") or "/" in served or "\0" in served or not served:
            raise _absent(served)
        return self.root / served

    def state_path(self, served: str) -> Path:
        """The file of a model's state, see `states`."""
        return self.state_dir / "models" / f"{self._model_dir(served).name}.json"


def _is_whole(directory: Path) -> bool:
    return all((directory / name).is_file() for name in (MODEL, MANIFEST))


def _absent(served: str) -> ModelNotInRepository:
    return ModelNotInRepository(f"{served} is not in the model repository")
