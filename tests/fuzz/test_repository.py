"""Files of the model repository, damaged by hand or by a disk: each is read, or is said to be damaged."""

import functools
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog
from gateway.models.status import RepositoryModel
from tests.fuzz.mutations import broken_json, damaged, damaged_json, deep, mutated
from tests.support.tiny_repository import manifest
from triton_models.contract.checks import Check, DamagedCheck, ImageCheck
from triton_models.contract.config import ConfigError, Tuning, from_text, model_config, to_text
from triton_models.contract.manifest import ImagePreprocessing, Manifest, ManifestError, Source
from triton_models.repository.repository import Repository, RepositoryError

TOKENIZER = next((Path(__file__).parents[1] / "inference_store" / "recording").rglob("tokenizer.json"))
TEXT = manifest(
    "owner/name",
    b"model",
    source=Source("hub", "/cache/x", "abc", {"config.json": [3, 4]}),
    prompts={"query": "Q: "},
    default_prompt_name="query",
    special_ids=[101, 102],
    check={"min_cosine": 1.0},
    versions={"torch": "2"},
)
TOWER = manifest(
    "ViT-B-32", b"m", pretrained="openai", tower="image", pair="x",
    image=ImagePreprocessing(224, 336, "longest", "bilinear", 127),
)  # fmt: skip
MANIFESTS = tuple(json.loads(one.to_json()) for one in (TEXT, TOWER))
CONFIGS = tuple(to_text(model_config("served", one)).encode() for one in (TEXT, TOWER))


@given(damaged_json(*MANIFESTS))
@example(b"null")
@example(deep(100_000).encode())
@example(json.dumps({**MANIFESTS[0], "sha256": 5}).encode())
@example(json.dumps({**MANIFESTS[0], "sha256": "x"}).encode())
@example(json.dumps({**MANIFESTS[0], "prompts": [1]}).encode())
def test_manifests(content: bytes) -> None:
    with suppress(UnicodeDecodeError):
        try:
            found = Manifest.from_json(content.decode())
        except ManifestError:
            return
        # What its readers rely on.
        assert 0 < found.version < 2**48
        assert found.dimensions > 0
        assert all(isinstance(text, str) for pair in found.prompts.items() for text in pair)
        assert Manifest.from_json(found.to_json()) == found
        ModelId.of(found)
        found.source.has_changed()


@given(damaged(*CONFIGS))
@example(b"instance_group {" * 2000)
@example(b"\xff")
def test_configurations(content: bytes) -> None:
    with suppress(UnicodeDecodeError):
        try:
            config = from_text(content.decode())
        except ConfigError:
            return
        assert from_text(to_text(config)) == config


@functools.cache
def checks() -> tuple[bytes, ...]:
    def file(save: Any, **arrays: Any) -> bytes:  # noqa: ANN401 - numpy's functions
        written = io.BytesIO()
        save(written, **arrays)
        return written.getvalue()

    text = {
        "input_ids": np.arange(6), "lengths": np.array([2, 4], np.int32),
        "embeddings": np.ones((2, 3), np.float32), "empty_embedding": np.ones(3, np.float32),
    }  # fmt: skip
    image = {"images": np.zeros((2, 4, 4, 3), np.uint8), "embeddings": np.ones((2, 3), np.float32)}
    return (
        file(np.savez, **text),
        file(np.savez_compressed, **text),
        file(np.savez, **image),
        file(np.savez, **{**text, "input_ids": np.array([{"a": 1}, None] * 3)}),
        file(np.savez, **{**text, "lengths": np.array([-2, 8])}),
        file(np.savez, **{**text, "embeddings": np.ones((2, 3), np.complex64)}),
        file(np.savez, **{**text, "embeddings": np.array(5.0), "empty_embedding": np.array("x")}),
    )


def array_with(header: str) -> bytes:
    """A check whose lengths have this header, whole as an archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checks()[0])) as good, zipfile.ZipFile(written, "w") as bad:
        for name in good.namelist():
            if name == "lengths.npy":
                text = header.encode("latin-1", "replace")
                bad.writestr(name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8))
            else:
                bad.writestr(name, good.read(name))
    return written.getvalue()


HEADER = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }   \n"
HUGE = "{'descr': '<i4', 'fortran_order': False, 'shape': (%d,), }\n"


@given(
    st.builds(lambda rng: mutated(rng, rng.choice(checks())), st.randoms(use_true_random=False))
    | st.builds(
        lambda rng: array_with(mutated(rng, HEADER.encode()).decode("latin-1")),
        st.randoms(use_true_random=False),
    )
)
@example(b"")
@example(array_with(HUGE % 2**40))
@example(array_with(HUGE % 2**62))
@example(array_with("(" * 5000))
@example(array_with("{'descr': '<i4', 'fortran_order': False, 'shape': (-2,), }\n"))
def test_checks(content: bytes) -> None:
    for kind in (Check, ImageCheck):
        with suppress(DamagedCheck):
            found = kind.read(content)
            if isinstance(found, Check):
                assert found.input_ids.ndim == found.lengths.ndim == 1
                assert found.embeddings.ndim == 2
                assert (found.lengths >= 0).all()
                empty = found.empty_embedding
                assert empty is None or (
                    empty.shape == found.embeddings.shape[1:] and empty.dtype == np.float32
                )


@contextmanager
def repository() -> Iterator[Repository]:
    """With one text model, whose files hold what a file of that name may hold but weights."""
    with tempfile.TemporaryDirectory() as root:
        made = Repository(Path(root))
        version = made.root / "owner_name" / str(TEXT.version)
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(b"model")
        (version / "model.json").write_text(TEXT.to_json())
        (version / "check.npz").write_bytes(checks()[0])
        (version / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
        (version / "engine.json").write_text('{"chosen": {"engine": "onnxruntime"}}')
        (version.parent / "config.pbtxt").write_text(to_text(model_config("owner_name", TEXT)))
        (made.state_dir / "models" / "owner_name.json").write_text(
            '{"wanted": true, "activity": null, "error": null}'
        )
        yield made


FILES = (
    "V/tokenizer.json",
    "config.pbtxt",
    "V/model.json",
    "V/check.npz",
    "V/engine.json",
    "S/owner_name.json",
    "V/model.onnx",
)
KINDS = ("damaged", "json", "directory", "gone", "empty", "loop")


@given(st.randoms(use_true_random=False), st.sampled_from(FILES), st.sampled_from(KINDS))
def test_a_damaged_file_is_told_and_harms_no_other(rng: random.Random, name: str, kind: str) -> None:
    with repository() as made:
        spoil(rng, made, name, kind)
        for read in (made.manifest, made.load_check, made.load_image_check, made.config, made.version_dir):
            with suppress(RepositoryError):
                read("owner_name")
        made.state("owner_name")
        made.states()
        made.triton_names()
        # As the routes ask.
        RepositoryModel(name="a", state="b", reason=made.state("owner_name").error, engine=read_engine(made))
        catalog = Catalog(made)
        with suppress(GatewayError):
            catalog._read_text(ModelId("owner/name"))
        with suppress(RepositoryError):
            config = made.config("owner_name")
            Tuning.of(config)
            assert Tuning.of(Tuning(3, 4, 5, True, 6).apply(config)) == Tuning(3, 4, 5, True, 6)


def read_engine(made: Repository) -> Any:  # noqa: ANN401 - a file of JSON
    try:
        return made.engine("owner_name")
    except RepositoryError:
        return None


def spoil(rng: random.Random, made: Repository, name: str, kind: str) -> None:
    home = made.root / "owner_name"
    path = Path(name.replace("V/", f"{TEXT.version}/"))
    path = made.state_dir / "models" / path.name if name.startswith("S/") else home / path
    content = path.read_bytes()
    path.unlink()
    if kind == "damaged":
        path.write_bytes(mutated(rng, content))
    elif kind == "json":
        document = json.loads(content) if path.suffix == ".json" else {}
        path.write_bytes(broken_json(rng, document))
    elif kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "loop":
        path.symlink_to(path.name)
