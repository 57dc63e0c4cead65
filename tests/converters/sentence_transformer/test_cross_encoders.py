"""Converted cross-encoders give the logits of CrossEncoder.predict, for pairs alone and in mixed batches."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from converters.errors import CheckFailed, InvalidModel
from converters.graph.pair_graph import PairGraph
from converters.graph.sentence_graph import Backbone
from converters.sources.inspection import inspect
from tests.converters.conftest import Convert, Converted
from tests.converters.sources.test_inspection import edit
from tests.support.planted import assert_all_kept_apart
from tests.support.tiny_models import transformer_model
from tests.support.tiny_pairs import CLASSES, checkpoint, cross_encoder, true_minilm
from triton_models.contract.pairs import PairRows

TEXTS = [
    "",
    "a",
    "Hello, world!",
    "the quick brown fox jumps over the lazy dog",
    "素早い茶色の狐 👍 naïve Straße",
    "one two three four five six seven eight nine ten eleven twelve " * 8,
    "<pad> [SEP] </s> in the middle of a text",
    "a server turns sentences into vectors, " * 3,
]
PAIRS = [(first, second) for first in TEXTS for second in TEXTS]
WITHIN = 1e-4

QUICK = ("bert", "distilbert", "modernbert", "xlm_roberta")
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(CLASSES)]


def logits_of(converted: Converted, pairs: list[tuple[str, str]], prompt: str = "") -> NDArray[np.float32]:
    """Logits of pairs in shuffled batches of all sizes, of rows made as the gateway makes them."""
    scoring = converted.manifest.scoring
    assert scoring is not None
    truncation = converted.tokenizer.truncation or {"max_length": None, "direction": "right"}
    rows = PairRows(scoring.template, truncation["max_length"], truncation["direction"])
    converted.tokenizer.no_truncation()

    def ids(text: str) -> NDArray[np.int64]:
        return np.array(converted.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    made = [rows.row(ids(prompt + first), ids(second)).tolist() for first, second in pairs]
    found = np.empty((len(pairs), len(scoring.labels)), np.float32)
    choice = random.Random(3)
    left = choice.sample(range(len(pairs)), len(pairs))
    while left:
        some = [left.pop() for _ in range(min(len(left), choice.choice([1, 2, 5, 16])))]
        found[some] = converted.embed([made[place] for place in some])
    return found


def predicted(path: Path, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
    reference = CrossEncoder(str(path), device="cpu")
    found = reference.predict(pairs, batch_size=1, activation_fn=nn.Identity())
    return np.asarray(found, np.float32).reshape(len(pairs), -1)


def assert_same_logits(converted: Converted, path: Path) -> None:
    expected = predicted(path, PAIRS)
    assert np.unique(expected.round(3), axis=0).shape[0] > len(PAIRS) // 2, "too alike to show a mistake"
    np.testing.assert_allclose(logits_of(converted, PAIRS), expected, atol=WITHIN)


@pytest.mark.parametrize("architecture", ALL)
def test_an_architecture_gives_the_reference_logits(
    architecture: str, sources: Path, convert: Convert
) -> None:
    path = checkpoint(sources / "ranker", architecture)
    converted = convert("ranker")
    manifest = converted.manifest
    assert (manifest.kind, manifest.dimensions) == ("cross-encoder", 1)
    assert manifest.attention == ("padded" if architecture == "mpnet" else "packed"), (
        manifest.attention_reason
    )
    assert manifest.check["max_difference"] < WITHIN
    assert_same_logits(converted, path)
    assert manifest.planted_id is not None
    assert_all_kept_apart(
        converted.directory / "model.onnx", manifest.planted_id, manifest.vocab_size, parts=1, streams=(2,)
    )


def test_a_saved_model_with_labels_prompts_and_an_activation(sources: Path, convert: Convert) -> None:
    path = cross_encoder(
        sources / "labels",
        labels=3,
        activation=nn.Sigmoid(),
        prompts={"query": "a question: "},
        default_prompt_name="query",
    )
    converted = convert("labels")
    scoring = converted.manifest.scoring
    assert scoring is not None
    assert (scoring.labels, scoring.activation) == (["LABEL_0", "LABEL_1", "LABEL_2"], "sigmoid")
    assert converted.manifest.prompts == {"query": "a question: "}
    # The default prompt goes before the first text.
    found = logits_of(converted, PAIRS, "a question: ")
    np.testing.assert_allclose(found, predicted(path, PAIRS), atol=WITHIN)


def test_the_pooling_of_modernbert_is_the_checkpoints(sources: Path, convert: Convert) -> None:
    path = checkpoint(sources / "mean", "modernbert", labels=2, classifier_pooling="mean")
    assert_same_logits(convert("mean"), path)


@pytest.mark.parametrize(
    ("architecture", "settings", "activation"),
    [
        ("bert", {}, "sigmoid"),
        ("bert", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        ("bert", {"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}, "identity"),
    ],
)
def test_the_activation_is_the_checkpoints(
    architecture: str, settings: dict[str, Any], activation: str, sources: Path, convert: Convert
) -> None:
    checkpoint(sources / "ranker", architecture, **settings)
    scoring = convert("ranker").manifest.scoring
    assert scoring is not None
    assert scoring.activation == activation


def test_the_kind_is_found_by_the_files(sources: Path) -> None:
    plain, saved = checkpoint(sources / "plain"), cross_encoder(sources / "saved")
    embedding = transformer_model(sources / "embedding")
    kinds = [inspect(path, trust_remote_code=False).kind for path in (plain, saved, embedding)]
    assert kinds == ["cross-encoder", "cross-encoder", "embedding"]


def test_an_activation_that_would_be_imported_is_refused(sources: Path) -> None:
    path = checkpoint(sources / "plain")
    for key in ("sentence_transformers", "sbert_ce_default_activation_function"):
        name = "torch.hub.list"
        edit(path / "config.json", **{key: {"activation_fn": name} if key[1] == "e" else name})
        with pytest.raises(InvalidModel, match="activation 'torch\\.hub\\.list'"):
            inspect(path, trust_remote_code=False)
        edit(path / "config.json", **{key: None})


def test_modules_that_are_not_supported_are_named(sources: Path) -> None:
    path = cross_encoder(sources / "saved")
    modules = json.loads((path / "modules.json").read_text())
    more = {"idx": 1, "name": "1", "path": "1_LogitScore", "type": modules[0]["type"][:-11] + "LogitScore"}
    (path / "modules.json").write_text(json.dumps([*modules, more]))
    with pytest.raises(InvalidModel, match="LogitScore"):
        inspect(path, trust_remote_code=False)


def test_a_checkpoint_without_its_pooler_is_refused(sources: Path, convert: Convert) -> None:
    path = checkpoint(sources / "ranker")
    weights = load_file(path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidModel, match="lacks weights"):
        convert("ranker")


def test_a_graph_that_ignores_token_types_is_refused(
    sources: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(sources / "ranker")
    forward = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, ids, layout, _=None: forward(self, ids, layout, None)
    )
    with pytest.raises(CheckFailed, match="a logit differs by"):
        convert("ranker")


def test_a_graph_whose_pairs_depend_on_each_other_is_refused(
    sources: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(sources / "ranker")
    forward = PairGraph.forward

    def mixed(self: PairGraph, input_ids: Tensor, item_shape: Tensor) -> tuple[Tensor, ...]:
        (logits,) = forward(self, input_ids, item_shape)
        return (logits + 0.0005 * (logits.mean() - logits),)

    monkeypatch.setattr(PairGraph, "forward", mixed)
    with pytest.raises(CheckFailed):
        convert("ranker")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_true_shape_of_minilm(sources: Path, convert: Convert) -> None:
    path = true_minilm(sources / "minilm")
    converted = convert("minilm")
    assert converted.manifest.attention == "packed"
    assert converted.manifest.max_seq_length == 512
    expected = predicted(path, PAIRS)
    np.testing.assert_allclose(logits_of(converted, PAIRS), expected, atol=1e-3)
