"""The torch engine's files give the library's vectors, text by text and together, without any padding."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from converters.graph import torch_export
from converters.graph.sentence_graph import Backbone, SentenceGraph
from converters.graph.varlen import CannotPack, window_of
from converters.job import Request
from converters.sentence_transformer import first_module, graph_modules, reference
from converters.sentence_transformer.pipeline import run
from converters.sources.inspection import inspect
from converters.verification import packed_check
from converters.verification.samples import Samples
from tests.converters.conftest import Steps
from tests.support import tiny_models
from tests.support.tiny_models import transformer_model
from triton_models.backends.onnxruntime.buckets import buckets, filled
from triton_models.backends.onnxruntime.packed_files import GRAPH, WEIGHTS, Unreadable, read
from triton_models.backends.onnxruntime.packed_program import Program
from triton_models.backends.onnxruntime.torch_session import TorchTexts
from triton_models.contract.accuracy import BOUNDS, cosines
from triton_models.contract.tokens import ROW_START
from triton_models.repository.repository import Repository

TEXTS = [
    "a",
    "the quick brown fox jumps over the lazy dog",
    "one two three four five six seven eight nine ten eleven twelve " * 4,
    "river",
    "a server turns sentences into vectors, " * 2,
]
Rows = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Packed:
    """A tiny model for the torch engine: its files, or the reason why there are none."""

    directory: Path
    reason: str | None
    planted_id: int
    rows: Rows
    vectors: NDArray[np.float32]
    weights: dict[str, torch.Tensor]


def packed(tmp_path: Path, architecture: str, **options: object) -> Packed:
    """Write the files of a tiny model, with the library's own vectors of TEXTS beside them."""
    source = transformer_model(tmp_path / "tiny", architecture, **options)  # type: ignore[arg-type]
    loaded = reference.load(source, inspect(source, trust_remote_code=False), trust_remote_code=False)
    vectors = loaded.encode(TEXTS)
    ids = loaded.first.tokenizer(TEXTS, truncation=True, max_length=64)["input_ids"]
    rows = [np.array(row) for row in ids]
    weights = {name: weight.clone() for name, weight in loaded.first.model.named_parameters()}
    tails, _ = graph_modules.after_first(loaded)
    vocab_size, planted_id = first_module.vocab_size(loaded), first_module.plant_flaw(loaded)
    first = first_module.transformer(loaded, "packed", layers=False)
    assert isinstance(first, Backbone)
    graph = SentenceGraph(first, tails, None, prompt_flag=False).eval()
    samples = Samples(TEXTS, rows, vectors, None, planted_id=planted_id)
    into = tmp_path / "packed"
    into.mkdir()
    reason = packed_check.write_texts(
        graph, first.model, samples, vocab_size, [64, 32], into, "fp16", lambda _share, _message: None
    )
    return Packed(into, reason, planted_id, rows, vectors, weights)


def embed(engine: TorchTexts, rows: Rows) -> NDArray[np.float32]:
    return engine.run(np.concatenate(rows), np.array([row.size for row in rows], np.int32))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("bert", {"pooling": ("cls", "max", "mean"), "dense": 16}),
        ("roberta", {"pooling": "weightedmean"}),
        ("modernbert", {}),
        ("qwen3", {}),
        ("gemma3", {"prompts": {"query": "query: "}}),
    ],
)
def test_vectors_are_the_librarys(tmp_path: Path, architecture: str, options: dict[str, object]) -> None:
    model = packed(tmp_path, architecture, **options)
    assert model.reason is None
    rows, expected = model.rows, model.vectors
    graph = read(model.directory)
    assert any("varlen_attention" in operation for _, operation, _, _ in graph["nodes"])

    engine = TorchTexts(model.directory, "cpu", "fp32")
    np.testing.assert_allclose(embed(engine, rows), expected, atol=1e-5)
    for row, vector in zip(rows, expected, strict=True):
        np.testing.assert_allclose(embed(engine, [row]), vector[None], atol=1e-5)
    flagged = [row | (np.arange(row.size) == 0) * ROW_START for row in rows]
    np.testing.assert_array_equal(embed(engine, flagged), embed(engine, rows))
    kept_apart(engine, rows, model.planted_id)
    filled_up(Program(model.directory, torch.device("cpu"), torch.float32), rows, expected)
    for precision in ("fp16", "bf16"):
        # Weights of tiny models are spread wide, and bfloat16 rounds them.
        least = BOUNDS["fp16"].reference if precision == "fp16" else 0.99
        assert cosines(embed(TorchTexts(model.directory, "cpu", precision), rows), expected).min() >= least


def kept_apart(engine: TorchTexts, rows: Rows, planted_id: int) -> None:
    """A text whose vector is not finite changes no other one's by a bit."""
    alone = embed(engine, rows)
    spoilt = [np.full_like(row, planted_id) if place == 1 else row for place, row in enumerate(rows)]
    together = embed(engine, spoilt)
    assert not np.isfinite(together[1]).any()
    np.testing.assert_array_equal(np.delete(together, 1, 0), np.delete(alone, 1, 0))


def filled_up(program: Program, rows: Rows, expected: NDArray[np.float32]) -> None:
    """Empty rows and filling, as of a CUDA graph, change no vector."""
    ids, lengths = np.concatenate(rows), np.array([row.size for row in rows], np.int32)
    (bucket,) = (bucket for bucket in buckets(64) if bucket.tokens == 384)
    ids, lengths = filled(ids, lengths, bucket)
    given = (torch.from_numpy(ids), torch.from_numpy(lengths).reshape(-1, 1), torch.arange(64))
    np.testing.assert_allclose(program(*given).numpy()[: len(rows)], expected, atol=1e-5)


def test_the_files_are_plain_data_and_hold_every_bit_of_the_weights(tmp_path: Path) -> None:
    model = packed(tmp_path, "bert")
    graph = read(model.directory)
    assert graph["longest"] == 64
    stored = load_file(model.directory / WEIGHTS)
    for name, weight in model.weights.items():
        if "word_embeddings" not in name and "pooler" not in name:
            assert torch.equal(stored[f"first.model.{name}"].float(), weight), name
    graph["nodes"][0][1] = "os.system"
    (model.directory / GRAPH).write_text(json.dumps(graph))
    with pytest.raises(Unreadable, match=r"os\.system, which is not allowed"):
        Program(model.directory, torch.device("cpu"), torch.float32)
    (model.directory / GRAPH).write_text("{")
    with pytest.raises(Unreadable, match="cannot be read"):
        read(model.directory)


def test_heads_that_the_kernel_does_not_take_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_models._BERT_LIKE, "num_attention_heads", 8)
    model = packed(tmp_path, "bert")
    assert "have 4 numbers, which is no multiple of 8" in str(model.reason)
    with pytest.raises(Unreadable, match="no multiple of 8"):
        read(model.directory)
    assert not (model.directory / WEIGHTS).exists()


def test_an_architecture_that_does_not_pack_is_converted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the conversion sees a GPU.
    monkeypatch.setattr(packed_check, "is_wanted", lambda _precision: True)
    transformer_model(tmp_path / "sources" / "tiny", "mpnet")
    request = Request("tiny", tmp_path / "repository", None, [tmp_path / "sources"], False, 2, False)
    ((served, _),) = run(request, Steps()).items()
    directory = Repository(request.output).version_dir(served)
    assert (directory / "model.onnx").is_file()
    with pytest.raises(Unreadable, match="its attention is not packed"):
        read(directory)


def test_masks_are_read_as_windows() -> None:
    def window(left: int, right: int) -> object:
        return lambda _batch, _head, query, key: (key >= query - left) & (key <= query + right)

    assert window_of(lambda _batch, _head, query, key: key <= query) == (-1, 0)
    assert window_of(lambda *_: torch.ones((), dtype=torch.bool)) == (-1, -1)
    assert window_of(window(3, 0)) == (3, 0)  # type: ignore[arg-type]
    assert window_of(window(64, 64)) == (64, 64)  # type: ignore[arg-type]
    with pytest.raises(CannotPack, match="not a window"):
        window_of(lambda _batch, _head, query, key: query // 16 == key // 16)


def test_an_operation_that_waits_for_the_gpu_is_refused(tmp_path: Path) -> None:
    class Waits(torch.nn.Module):
        def forward(self, ids: torch.Tensor, shape: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            del places
            return torch.nonzero(ids).to(torch.float32).sum() + shape.to(torch.float32)

    with pytest.raises(CannotPack, match="nonzero"):
        torch_export.write_text(Waits(), torch.nn.Module(), 100, 64, tmp_path)
