"""The model repository on disk: what exists, whole models only, shared by any number of processes.

    <root>/<served>/config.pbtxt        names one version
    <root>/<served>/<version>/          model.onnx  model.json  tokenizer.json  check.npz  engine.json
                                        (an image tower has no tokenizer)
    <root>/.state/                      locks, staging, what is wanted; Triton never looks inside

Knows nothing about Triton's process or the network. Messages of its errors hold no paths.

    RepositoryError
    ├── ModelNotInRepository
    └── DamagedModel (also a ManifestError)
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout
from tritonclient.grpc.model_config_pb2 import ModelConfig

from triton_models.checks import Check, DamagedCheck, ImageCheck
from triton_models.config import ConfigError, from_text, served_version, to_text
from triton_models.files import move_into_place, remove_whole, sync_tree, write_atomic
from triton_models.manifest import Manifest, ManifestError

CONFIG = "config.pbtxt"
MODEL = "model.onnx"
MANIFEST = "model.json"
TOKENIZER = "tokenizer.json"
CHECK = "check.npz"
ENGINE = "engine.json"

Activity = Literal["converting", "loading", "unloading", "deleting"]
Recorded = TypeVar("Recorded")

logger = logging.getLogger(__name__)


class RepositoryError(Exception):
    """The base of what is raised here."""


class ModelNotInRepository(RepositoryError):
    """No complete model of that name."""


class DamagedModel(RepositoryError, ManifestError):
    """A model's files are there but cannot be read."""


@dataclass(frozen=True)
class ModelState:
    """What is known about a model beside its files.

    wanted: to be loaded whenever Triton serves. activity: what is being done with it now.
    error: why the last attempt failed, safe to show to a client; None after a success.
    """

    wanted: bool = False
    activity: Activity | None = None
    error: str | None = None


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

    def version_dir(self, served: str) -> Path:
        """The directory of the version that is served.

        Raises:
            ModelNotInRepository: no such model, or its version is not complete.
            DamagedModel: `config.pbtxt` cannot be read.

        """
        model_dir = self._model_dir(served)
        config = None
        while True:
            before, config = config, self.config(served)
            directory = model_dir / str(served_version(config))
            if all((directory / name).is_file() for name in (MODEL, MANIFEST)):
                return directory
            # The model may have been replaced since its configuration was read: then that is another now.
            if config == before:
                raise _absent(served)

    def manifest(self, served: str) -> Manifest:
        """What is recorded about a model.

        Raises:
            ModelNotInRepository: no complete model of that name.
            DamagedModel: `config.pbtxt` or `model.json` cannot be read, or do not belong together.

        """
        directory, content = self._read(served, MANIFEST)
        try:
            manifest = Manifest.from_json(content.decode())
        except (ManifestError, UnicodeDecodeError) as error:
            raise DamagedModel(f"{served}: {error}; delete and load the model again") from error
        if str(manifest.version) != directory.name:
            raise DamagedModel(
                f"{served}: model.json belongs to another version; delete and load the model again"
            )
        return manifest

    def load_check(self, served: str) -> Check:
        """The texts and vectors recorded at conversion.

        Raises:
            ModelNotInRepository: no complete model of that name.
            DamagedModel: `check.npz` is missing, cannot be read or does not fit itself.

        """
        return self._load(served, Check.read)

    def load_image_check(self, served: str) -> ImageCheck:
        """The same of an image tower.

        Raises:
            ModelNotInRepository, DamagedModel: as `load_check`.

        """
        return self._load(served, ImageCheck.read)

    def config(self, served: str) -> ModelConfig:
        """Triton's configuration of a model; it names one version.

        Raises:
            ModelNotInRepository, DamagedModel: it is not there or cannot be read.
        """
        try:
            config = from_text((self._model_dir(served) / CONFIG).read_text(encoding="utf-8"))
            served_version(config)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _absent(served) from error
        except (ConfigError, UnicodeDecodeError) as error:
            problem = f"{served}: config.pbtxt is damaged; delete and load the model again"
            raise DamagedModel(problem) from error
        return config

    def set_config(self, served: str, config: ModelConfig) -> None:
        """Replace a model's configuration at once. The caller holds `lock(served)`."""
        write_atomic(self._model_dir(served) / CONFIG, to_text(config))

    def engine(self, served: str) -> dict[str, Any] | None:
        """What was measured of the engines on the CPU (backends/onnxruntime/selection.py), if anything."""
        try:
            record: dict[str, Any] = json.loads((self.version_dir(served) / ENGINE).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return record

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

    def install(self, staged: Path, served: str) -> None:
        """Move a built model (`config.pbtxt` and `<version>/` in `staged`) into its place.

        Readers and a kill at any moment find the model as it was or as it is now. The caller holds
        `lock(served)`.

        Raises:
            ModelNotInRepository: `staged` is not complete.

        """
        version = served_version(from_text((staged / CONFIG).read_text(encoding="utf-8")))
        if not all((staged / str(version) / name).is_file() for name in (MODEL, MANIFEST)):
            raise ModelNotInRepository(f"{served} was built incomplete")
        sync_tree(staged)
        move_into_place(staged, self._model_dir(served), self._trash)

    def delete(self, served: str) -> None:
        """Remove a model, all versions, and what is known about it. The caller holds `lock(served)`.

        Raises:
            ModelNotInRepository: nothing of that name.

        """
        directory = self._model_dir(served)
        if not (directory / CONFIG).is_file():
            raise _absent(served)
        remove_whole(directory, self._trash)
        self._state_path(served).unlink(missing_ok=True)

    def lock_path(self, served: str) -> Path:
        """The file whose lock is held while a model is converted, loaded, unloaded or deleted."""
        return self.state_dir / "locks" / f"{served}.lock"

    def lock(self, served: str) -> FileLock:
        """A new lock on `lock_path`, not yet held."""
        return FileLock(self.lock_path(served))

    def state(self, served: str) -> ModelState:
        """What is known about a model; the default for one that nothing was ever done with."""
        try:
            return ModelState(**json.loads(self._state_path(served).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ModelState()
        except (ValueError, TypeError):
            logger.warning("the state of %s is damaged and taken as unknown", served)
            return ModelState()

    def set_state(self, served: str, state: ModelState) -> None:
        """Record what is known about a model, at once for all processes; the default leaves no file."""
        if state == ModelState():
            self._state_path(served).unlink(missing_ok=True)
        else:
            write_atomic(self._state_path(served), json.dumps(asdict(state)))

    def states(self) -> dict[str, ModelState]:
        """The state of every model that has one, by served name."""
        paths = (self.state_dir / "models").glob("[!.]*.json")
        return {path.stem: self.state(path.stem) for path in sorted(paths)}

    def clean(self) -> None:
        """Remove what killed processes left behind; what a living one uses stays."""
        # A kill leaves the directory, the lock's file or both.
        for name in {path.name.removesuffix(".lock") for path in self._staging.iterdir()}:
            lock = FileLock(self._staging / f"{name}.lock", timeout=0)
            with suppress(Timeout), lock:
                shutil.rmtree(self._staging / name, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
        for path in self._trash.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, served: str, name: str) -> tuple[Path, bytes]:
        """The version's directory and one file of it, both of the same model while it is replaced."""
        directory = None
        while True:
            before, directory = directory, self.version_dir(served)
            try:
                return directory, (directory / name).read_bytes()
            except FileNotFoundError:
                if directory == before:
                    raise

    def _load(self, served: str, read: Callable[[bytes], Recorded]) -> Recorded:
        try:
            return read(self._read(served, CHECK)[1])
        except (OSError, DamagedCheck) as error:
            raise DamagedModel(f"{served}: {CHECK} is damaged; delete and load the model again") from error

    def _model_dir(self, served: str) -> Path:
        if served.startswith(".") or "/" in served or "\0" in served or not served:
            raise _absent(served)
        return self.root / served

    def _state_path(self, served: str) -> Path:
        return self.state_dir / "models" / f"{self._model_dir(served).name}.json"


def _absent(served: str) -> ModelNotInRepository:
    return ModelNotInRepository(f"{served} is not in the model repository")
