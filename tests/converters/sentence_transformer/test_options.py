"""Every option of sentence-transformers that changes vectors is followed or refused.

The library's own lists are read, so that an option of a new version fails here until somebody has decided.
"""

import inspect
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import InputModule, Module
from sentence_transformers.base.modules.transformer import ModalityParams, ProcessingKwargs
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    CLIPModel,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
)

from converters.errors import InvalidModel
from converters.sentence_transformer import reference, reference_calls
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.sources.inspection import SUPPORTED_MODULES
from converters.sources.inspection import inspect as inspect_source
from converters.verification.budget import SECONDS, Budget
from tests.support.tiny_models import transformer_model
from tests.support.tiny_tokenizers import unigram

FOLLOWED = "followed: the vectors are the library's, which a test or the check at conversion compares"
REFUSED = "refused at conversion, by name"
NO_EFFECT = "changes no vector of a text"
ALLOW_LIST = "handed on to transformers: only what is on the list of the inspection"
PER_CALL = "of a call, not of a model; a request has no field for it"
REQUEST = "followed: a request has a field for it"

OF_THE_TRANSFORMER = {
    "transformer_task": REFUSED,
    "model_kwargs": ALLOW_LIST,
    "processor_kwargs": ALLOW_LIST,
    "config_kwargs": ALLOW_LIST,
    "processing_kwargs": FOLLOWED,
    "backend": NO_EFFECT,
    "modality_config": REFUSED,
    "module_output_name": REFUSED,
    "unpad_inputs": NO_EFFECT,
    "query_length": FOLLOWED,
    "document_length": FOLLOWED,
    "query_expansion": REFUSED,
    "max_seq_length": FOLLOWED,
    "do_lower_case": FOLLOWED,
    "tokenizer_name_or_path": REFUSED,
}
OF_OTHER_MODULES: dict[type[Module], dict[str, str]] = {
    Pooling: dict.fromkeys(("embedding_dimension", "pooling_mode", "include_prompt"), FOLLOWED),
    Dense: {
        **dict.fromkeys(("in_features", "out_features", "bias", "activation_function"), FOLLOWED),
        **dict.fromkeys(("module_input_name", "module_output_name", "use_residual"), FOLLOWED),
        # Of the constructor only: they are in the weights.
        **dict.fromkeys(("init_weight", "init_bias"), NO_EFFECT),
    },
    Normalize: dict.fromkeys(("module_input_name", "module_output_name"), FOLLOWED),
    LayerNorm: {"dimension": FOLLOWED},
    WordEmbeddings: {
        **dict.fromkeys(("tokenizer", "tokenizer_class", "embedding_weights", "max_seq_length"), FOLLOWED),
        "update_embeddings": NO_EFFECT,
    },
    BoW: dict.fromkeys(BoW.config_keys, FOLLOWED),
    Router: {
        **dict.fromkeys(("sub_modules", "route_mappings"), FOLLOWED + "; refused where routes begin apart"),
        **dict.fromkeys(("default_route", "allow_empty_key"), FOLLOWED),
    },
    WeightedLayerPooling: {
        **dict.fromkeys(("embedding_dimension", "num_hidden_layers", "layer_start"), FOLLOWED),
        # Of the constructor only: they are in the weights.
        "layer_weights": NO_EFFECT,
    },
    Dropout: {"dropout": NO_EFFECT},
    StaticEmbedding: {
        **dict.fromkeys(("tokenizer", "embedding_weights", "embedding_dim"), FOLLOWED),
        "kwargs": NO_EFFECT,
    },
}
OF_THE_MODEL = {
    "model_type": REFUSED,
    "__version__": NO_EFFECT,
    "requirements": "refused by the library where this environment has other versions",
    "prompts": FOLLOWED,
    "default_prompt_name": FOLLOWED,
    "similarity_fn_name": NO_EFFECT,
    "truncate_dim": FOLLOWED,
}
OF_MODULES_JSON = {
    "name": NO_EFFECT,
    "path": FOLLOWED,
    "type": FOLLOWED,
    "kwargs": "refused where encode_query or encode_document gives other vectors by it",
}
OF_ENCODE = {
    "inputs": REQUEST,
    "prompt_name": REQUEST,
    "prompt": REQUEST,
    "normalize_embeddings": REQUEST,
    "truncate_dim": REQUEST,
    "precision": REQUEST,
    "output_value": REQUEST,
    "kwargs": REQUEST,  # `task`, as input_type
    **dict.fromkeys(("batch_size", "show_progress_bar", "convert_to_numpy", "convert_to_tensor"), NO_EFFECT),
    **dict.fromkeys(("device", "pool", "chunk_size"), NO_EFFECT),
}


def parameters(function: Any) -> set[str]:  # noqa: ANN401 - any callable
    """Names of what a function takes."""
    return set(inspect.signature(function).parameters) - {"self", "model_name_or_path"}


def read_from(name: str, *sources: Any) -> set[str]:  # noqa: ANN401 - classes or functions
    """Keys that the library's code looks up in a dictionary of this name."""
    pattern = re.compile(rf'\b{name}(?:\.get\(|\[)"(\w+)"')
    return {key for source in sources for key in pattern.findall(inspect.getsource(source))}


def test_every_option_of_the_library_is_decided() -> None:
    model = SentenceTransformer(modules=[StaticEmbedding(unigram().backend_tokenizer, embedding_dim=4)])
    lists: Iterable[tuple[str, set[str], dict[str, str]]] = (
        ("Transformer", parameters(Transformer.__init__), OF_THE_TRANSFORMER),
        *((kind.__name__, parameters(kind.__init__), known) for kind, known in OF_OTHER_MODULES.items()),
        (
            "config_sentence_transformers.json",
            set(model._get_model_config()) | read_from("model_config", BaseModel, SentenceTransformer),
            OF_THE_MODEL,
        ),
        ("modules.json", read_from("module_config", BaseModel._load_config_modules), OF_MODULES_JSON),
        ("encode", parameters(SentenceTransformer.encode), OF_ENCODE),
        ("encode_query", parameters(SentenceTransformer.encode_query), OF_ENCODE),
        ("encode_document", parameters(SentenceTransformer.encode_document), OF_ENCODE),
    )
    for where, there, known in lists:
        assert there - set(known) <= {"truncate_dim"} - set(known), (
            f"new in {where}: decide what to do with it"
        )
        # The last one is of the file only.
        elsewhere = {"truncate_dim", "requirements", "tokenizer_class"}
        assert set(known) - there <= elsewhere, f"no longer in {where}"
    for kind, known in {Transformer: OF_THE_TRANSFORMER, **OF_OTHER_MODULES}.items():
        assert set(kind.config_keys) <= set(known), kind
    assert set(Transformer._DEFAULT_CONFIG_VALUES) <= set(OF_THE_TRANSFORMER)
    supported = {kind.__name__ for kind in OF_OTHER_MODULES} | {"Transformer", "CLIPModel", "Asym"}
    assert supported == SUPPORTED_MODULES
    assert CLIPModel.config_keys == Transformer.config_keys
    # What a text goes through, and the parts of the two nested options.
    assert parameters(Transformer.preprocess) == {"inputs", "prompt", "processing_kwargs", "kwargs"}
    assert parameters(InputModule.preprocess) == {"inputs", "prompt", "kwargs"}
    assert read_from("kwargs", Transformer.preprocess) == {"task", "max_length"}
    assert set(ProcessingKwargs.__annotations__) == {
        *("common", "text"),
        *("audio", "image", "video", "chat_template"),
    }
    assert set(ModalityParams.__annotations__) <= {"method", "method_output_name", "format"}
    assert SentenceTransformer._default_prompts == {"query": None, "document": None}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformer_model(tmp_path_factory.mktemp("good") / "model", prompts={"query": "ask: "})


def edited(good: Path, path: Path, **changes: object) -> Path:
    shutil.copytree(good, path)
    settings = path / "sentence_bert_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **changes}))
    return path


def opened(path: Path) -> reference.ReferenceModel:
    return reference.load(path, inspect_source(path, trust_remote_code=False), trust_remote_code=False)


TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"transformer_task": "fill-mask"}, "fill-mask"),
        ({"query_expansion": {"strategy": "fixed", "length": 32}}, "query_expansion"),
        ({"tokenizer_name_or_path": "other/model"}, "tokenizer_name_or_path"),
        ({"processing_kwargs": {"text": {"add_special_tokens": "no"}}}, "text.add_special_tokens"),
        ({"processing_kwargs": {"common": {"padding": "widest"}}}, "common.padding"),
        ({"modality_config": {"text": {**TEXT, "method_output_name": "pooler_output"}}}, "pooler_output"),
        ({"modality_config": {"text": {**TEXT, "method_output_name": None}}}, "output None"),
        ({"modality_config": {"message": TEXT}}, "chat messages"),
        ({"module_output_name": "sentence_embedding"}, "sentence_embedding"),
        ({"an_option_of_tomorrow": True}, "an_option_of_tomorrow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_followed_is_refused_by_name(
    changes: dict[str, object], named: str, good: Path, tmp_path: Path
) -> None:
    if "modality_config" in changes:
        changes = {"module_output_name": "token_embeddings", **changes}
    with pytest.raises(InvalidModel, match=re.escape(named)):
        opened(edited(good, tmp_path / "model", **changes))


def test_lengths_of_queries_and_documents_are_read_as_the_library_applies_them(
    good: Path, tmp_path: Path
) -> None:
    plain = ReferenceTokenizer(opened(good))
    assert (plain.lengths, plain.max_seq_length) == ({}, 64)
    both = ReferenceTokenizer(opened(edited(good, tmp_path / "a", query_length=9, document_length=64)))
    assert (both.lengths, both.max_seq_length) == ({"query": 9}, 64)
    # What is given with each call goes before them, in the library too.
    given = {"text": {"max_length": 20}}
    same = ReferenceTokenizer(opened(edited(good, tmp_path / "b", query_length=9, processing_kwargs=given)))
    assert (same.lengths, same.max_seq_length) == ({}, 20)


def test_a_task_that_changes_more_than_the_tokens_is_refused(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = opened(good)
    tokenizer = ReferenceTokenizer(loaded)
    forward = loaded.first.forward

    def by_task(features: dict[str, Any], **kwargs: object) -> dict[str, Any]:
        found: dict[str, Any] = forward(features)
        if kwargs.get("task") == "document":
            found["token_embeddings"] = found["token_embeddings"].roll(1, dims=-1)
        return found

    monkeypatch.setattr(loaded.first, "forward", by_task)
    loaded.model.module_kwargs = {"0": ["task"]}
    asked = reference_calls.jobs(loaded, tokenizer)
    jobs, vectors = reference_calls.vectors(loaded, tokenizer, asked, Budget(SECONDS), lambda *_: None)
    with pytest.raises(InvalidModel, match="another vector of the same tokens"):
        reference_calls.require_same_for_same_ids(
            [text for job in jobs for text in job.texts],
            [tokenizer.ids(text, job.prompt, job.input_type) for job in jobs for text in job.texts],
            vectors,
        )
