"""Every architecture and every module gives the vectors of SentenceTransformer.encode, in mixed batches."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from converters.errors import CheckFailed
from converters.graph import onnx_export
from converters.graph.packed_attention import Layout
from tests.converters.conftest import Convert, Converted
from tests.support.planted import SPOILS, assert_all_kept_apart, assert_kept_apart, engines, of, texts
from tests.support.tiny_models import ARCHITECTURES, HIDDEN, PACKED, static_model, transformer_model
from triton_models.contract.tokens import ROW_START, mark_not_pooled

TEXTS = [
    "a",
    "Hello, world!",
    "the quick brown fox jumps over the lazy dog",
    "素早い茶色の狐 👍 naïve Straße",
    "one two three four five six seven eight nine ten eleven twelve " * 8,
    "<pad> [PAD] in the middle <pad> of a text",
    "a server turns sentences into vectors, " * 3,
    "\x00\x07 control \t\n characters",
    "river",
    "paper window ocean",
]
LEAST = 0.999999  # tiny models leave no room for rounding


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return result


def assert_same_vectors(converted: Converted, reference: SentenceTransformer) -> None:
    """Every text alone and in shuffled batches of all sizes."""
    expected = reference.encode(TEXTS, batch_size=1)
    between = cosines(expected, np.roll(expected, 1, axis=0))
    assert between.max() < 0.97, "the reference's vectors are too alike to show a mistake"
    rows = [converted.ids(text) for text in TEXTS]
    choice = random.Random(3)
    for size in [1] * len(TEXTS) + [2, 3, 5, 7, 10] * 3:
        chosen = choice.sample(range(len(TEXTS)), size)
        vectors = converted.embed([rows[row] for row in chosen])
        assert cosines(vectors, expected[chosen]).min() > LEAST
        np.testing.assert_allclose(vectors, expected[chosen], atol=2e-4)


def assert_same_tokens(converted: Converted, expected: list[NDArray[np.float32]]) -> None:
    """The vectors of the tokens of every text, alone and all together."""
    assert converted.manifest.token_dimensions == HIDDEN
    assert converted.manifest.check["min_token_cosine"] > LEAST
    rows = [np.array(converted.ids(text)) for text in TEXTS]
    together = converted.engine.run_tokens(
        np.concatenate(rows), np.array([row.size for row in rows], np.int32)
    )
    parts = np.split(together, np.cumsum([row.size for row in rows])[:-1])
    for row, part, vectors in zip(rows, parts, expected, strict=True):
        alone = converted.engine.run_tokens(row, np.array([row.size], np.int32))
        for found in (part, alone):
            assert cosines(found, vectors).min() > LEAST
            np.testing.assert_allclose(found, vectors, atol=2e-4 * np.abs(vectors).max())


def assert_texts_are_kept_apart(converted: Converted, parts: int = 1) -> None:
    """A text whose vector is not finite changes no other one's by a bit, on any engine."""
    manifest = converted.manifest
    assert manifest.planted_id is not None
    assert_all_kept_apart(
        converted.directory / "model.onnx",
        manifest.planted_id,
        manifest.vocab_size,
        parts=parts,
        streams=(1, 2) if parts > 1 else (2,),
    )


def assert_everything_is_the_librarys(converted: Converted, path: Path, within: float) -> None:
    """Vectors of texts and tokens, in any batch, and beside a text whose vector is not finite.

    `within` is the largest difference of the vectors of texts, as a share of the largest number in them.
    """
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(TEXTS, batch_size=1)
    rows = [converted.ids(text) for text in TEXTS]
    np.testing.assert_allclose(converted.embed(rows), expected, atol=within * np.abs(expected).max())
    assert_same_vectors(converted, reference)
    assert_same_tokens(converted, tokens_of(reference))
    assert_texts_are_kept_apart(converted)


def tokens_of(reference: SentenceTransformer) -> list[NDArray[np.float32]]:
    vectors = reference.encode(TEXTS, batch_size=1, output_value="token_embeddings")
    return [np.asarray(rows) for rows in vectors]


# Those that differ from another one in little wait for the long run.
QUICK = ("bert", "gemma3", "modernbert", "mpnet", "qwen3", "t5")
"""Of each kind of attention one."""
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(ARCHITECTURES)]


@pytest.mark.parametrize("architecture", ALL)
def test_architecture_gives_the_reference_vectors(architecture: str, sources: Path, convert: Convert) -> None:
    path = transformer_model(sources / architecture, architecture)
    converted = convert(architecture)
    reference = SentenceTransformer(str(path), device="cpu")
    assert_same_vectors(converted, reference)
    assert_same_tokens(converted, tokens_of(reference))
    assert converted.manifest.attention == ("packed" if architecture in PACKED else "padded")
    assert_texts_are_kept_apart(converted)
    assert any(converted.manifest.attention_reason in message for _, _, message in converted.steps)


def test_static_embeddings(sources: Path, convert: Convert) -> None:
    path = static_model(sources / "static")
    converted = convert("static")
    assert converted.manifest.attention == "none"
    assert not converted.manifest.add_special_tokens
    assert converted.manifest.max_seq_length is None
    reference = SentenceTransformer(str(path), device="cpu")
    assert_same_vectors(converted, reference)
    first: Any = reference[0]
    table = first.embedding.weight.detach().numpy()
    assert_same_tokens(converted, [table[converted.ids(text)] for text in TEXTS])
    with np.load(converted.directory / "check.npz") as check:
        np.testing.assert_array_equal(check["empty_embedding"], reference.encode(""))


def test_a_graph_in_which_texts_spoil_others_fails_its_check(
    sources: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout_of = Layout.of

    def with_the_next_text_on_padding(
        lengths: Tensor, total: int, multiple: int = 1, places: Tensor | None = None
    ) -> Layout:
        layout = layout_of(lengths, total, multiple, places)
        next_on = (lengths.cumsum(0) - lengths).unsqueeze(1) + torch.arange(layout.longest).unsqueeze(0)
        return replace(layout, tokens=next_on.clamp(max=total - 1))

    monkeypatch.setattr(Layout, "of", with_the_next_text_on_padding)
    transformer_model(sources / "model")
    # Neither packed nor, after that, padded.
    with pytest.raises(CheckFailed, match="changes the vectors of others"):
        convert("model")


@pytest.mark.parametrize("normalize", [True, False])
def test_static_words_without_a_finite_vector(normalize: bool, sources: Path, convert: Convert) -> None:
    spoils = dict(zip(("fox", "jumps", "lazy"), SPOILS.items(), strict=True))
    static_model(sources / "static", normalize=normalize, words={w: v for w, (_, v) in spoils.items()})
    converted = convert("static")
    rows = texts(converted.manifest.vocab_size)
    planted_id = converted.manifest.planted_id
    assert planted_id is not None
    words = {name: converted.ids(word)[0] for word, (name, _) in spoils.items()}
    rows = [np.where(np.isin(row, list(words.values())), 5, row) for row in rows]
    for name, engine in engines(converted.directory / "model.onnx"):
        for spoil, word in {**words, "planted": planted_id}.items():
            assert_kept_apart(of(engine), rows, word, f"{spoil}, {name}")
    # Of their tokens' vectors, those of the word alone are not finite.
    row = np.array([7, words["NaN"], 8, words["inf"]])
    tokens = converted.engine.run_tokens(row, np.array([4], np.int32))
    assert np.isfinite(tokens).all(axis=1).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "spoilt_activation",
    [nn.ReLU(), *(pytest.param(kind, marks=pytest.mark.slow) for kind in (nn.Tanh(), nn.Sigmoid()))],
    ids=["relu", "tanh", "sigmoid"],
)
def test_an_activation_hides_no_fault(spoilt_activation: nn.Module, sources: Path, convert: Convert) -> None:
    transformer_model(sources / "model", pooling="max", dense=16, activation=spoilt_activation)
    assert_texts_are_kept_apart(convert("model"))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("bert", {"pooling": ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]}),
        ("t5", {"pooling": "weightedmean", "dense": 16, "activation": nn.Identity(), "layer_norm": True}),
        ("distilbert", {"dense": 32, "residual": True, "activation": nn.GELU(), "truncate_dim": 20}),
    ],
    ids=["all-pooling-modes", "dense-layer-norm", "residual-truncated"],
)
def test_modules_after_the_transformer(
    architecture: str, options: dict[str, Any], sources: Path, convert: Convert
) -> None:
    path = transformer_model(sources / "model", architecture, normalize=architecture != "bert", **options)
    converted = convert("model")
    assert_same_vectors(converted, SentenceTransformer(str(path), device="cpu"))
    assert converted.manifest.normalized == (architecture == "t5")
    assert_texts_are_kept_apart(converted, parts=6 if architecture == "bert" else 1)


def test_a_prompt_that_pooling_leaves_out(sources: Path, convert: Convert) -> None:
    prompt = "a question: "
    path = transformer_model(
        sources / "model",
        pooling=["mean", "weightedmean", "cls", "max", "lasttoken"],
        include_prompt=False,
        prompts={"query": prompt, "document": ""},
        default_prompt_name="query",
    )
    converted = convert("model")
    manifest = converted.manifest
    assert not manifest.include_prompt
    assert (manifest.prompts["query"], manifest.default_prompt_name) == (prompt, "query")
    alone = converted.ids(prompt)
    left_out = len(alone) - (alone[-1] in manifest.special_ids)
    rows = [mark_not_pooled(np.array(converted.ids(prompt + text)), left_out).tolist() for text in TEXTS]
    reference = SentenceTransformer(str(path), device="cpu")
    np.testing.assert_allclose(converted.embed(rows), reference.encode(TEXTS, batch_size=1), atol=1e-5)
    plain = [converted.ids(text) for text in TEXTS]
    expected = reference.encode(TEXTS, prompt="", batch_size=1)
    np.testing.assert_allclose(converted.embed(plain), expected, atol=1e-5)


def test_the_files_of_a_model(sources: Path, convert: Convert) -> None:
    path = transformer_model(sources / "model", max_seq_length=100)
    converted = convert("model")
    with np.load(converted.directory / "check.npz") as check:
        lengths, input_ids, embeddings = check["lengths"], check["input_ids"], check["embeddings"]
    assert lengths.max() == 100
    assert 16 <= len(lengths) <= 32
    assert len(set(lengths.tolist())) > 8
    np.testing.assert_allclose(converted.engine.run(input_ids, lengths), embeddings, atol=1e-5)
    # The flag that makes the bytes of a request tell its shape changes no vector.
    rows = [converted.ids(text) for text in TEXTS]
    flagged = [[row[0] | ROW_START, *row[1:]] for row in rows]
    np.testing.assert_array_equal(converted.embed(rows), converted.embed(flagged))
    # No path of the machine that converted is in the graph.
    graph = (converted.directory / "model.onnx").read_bytes()
    assert str(path.parent).encode() not in graph
    assert b"site-packages" not in graph
    # The same source converts to the same version; another one to another.
    assert convert("model").manifest.version == converted.manifest.version


def test_truncation_and_lower_casing_are_in_the_tokenizer_file(sources: Path, convert: Convert) -> None:
    path = transformer_model(sources / "model", "roberta", max_seq_length=17)
    settings = path / "sentence_bert_config.json"
    settings.write_text(settings.read_text().replace("{", '{"do_lower_case": true,', 1))
    converted = convert("model")
    assert converted.manifest.max_seq_length == 17
    assert len(converted.ids("word " * 1000)) == 17
    assert converted.ids("UPPER") == converted.ids("upper")
    assert_same_vectors(converted, SentenceTransformer(str(path), device="cpu"))


@pytest.mark.slow
def test_weights_beyond_one_file_lie_beside_the_graph(
    sources: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_LARGEST_INLINE", 10_000)
    path = transformer_model(sources / "model", "distilbert")
    converted = convert("model")
    assert (converted.directory / "model.onnx.data").stat().st_size > 50_000
    reference = SentenceTransformer(str(path), device="cpu")
    assert_same_vectors(converted, reference)
    assert_same_tokens(converted, tokens_of(reference))
