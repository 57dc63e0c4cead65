"""A conversion that a library ends says why, in one line; other failures keep their own status."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from transformers.models.bert.modeling_bert import BertSelfAttention

from converters.causes import blamed_on_the_model
from converters.errors import ConversionError, InvalidModel, NoSpace, describe
from converters.verification.engine_check import cannot_run
from tests.converters.conftest import Convert
from tests.support.odd_models import gpt2, saved
from tests.support.tiny_models import transformer_model
from tests.support.tiny_tokenizers import byte_level

OURS = Path("/repository")


def blame(error: BaseException, ours: Path | None = OURS) -> str:
    """Return the message of the error that a library's exception becomes."""
    with pytest.raises(InvalidModel) as caught, blamed_on_the_model(lambda: "it failed", ours):
        raise error
    return str(caught.value)


def test_a_tokenizer_without_a_pad_token(convert: Convert, sources: Path) -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = None
    saved(sources / "model", gpt2(pad_token_id=None), tokenizer)
    assert json.loads((sources / "model" / "tokenizer_config.json").read_text()).get("pad_token") is None
    with pytest.raises(InvalidModel, match=r"padding token.*; name its pad_token in tokenizer_config.json"):
        convert("model")


def test_an_attention_that_asserts(convert: Convert, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object, **__: object) -> None:
        # As a failed `assert` without a message, which pytest would give one.
        raise AssertionError

    transformer_model(sources / "model")
    monkeypatch.setattr(BertSelfAttention, "forward", forward)
    with pytest.raises(InvalidModel, match=r"AssertionError: forward: raise AssertionError"):
        convert("model")


def test_an_operator_that_onnx_runtime_lacks(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("NoSuchOperator", ["a"], ["b"])], "g", value[:1], value[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(InvalidModel, match=r"NoSuchOperator.*lacks an operator") as caught, cannot_run():
        onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EACCES, "Permission denied", "/repository/model"),
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        RuntimeError("can't allocate memory"),
        NoSpace("full"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=repr,
)
def test_failures_that_are_not_the_model_s(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, blamed_on_the_model(lambda: "it failed", OURS):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        OSError("no file named config.json in the directory"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/sources/model/vocab.txt"),
        AssertionError(),
        NotImplementedError("of no layer"),
        BaseException("PanicException"),
    ],
    ids=repr,
)
def test_failures_of_the_model(error: BaseException) -> None:
    message = blame(error)
    assert message.startswith(f"it failed: {type(error).__name__}")
    assert message.endswith("; check that its files are complete and belong together")


def test_a_message_has_no_escapes_and_no_lines() -> None:
    coloured = ValueError("\x1b[1;31mshape\x1b[0m\n\tof \x1b]8;;file:///x\x07layer\x1b]8;;\x07\x00 0")
    assert describe(coloured) == "ValueError: shape of layer 0"
    assert str(ConversionError("\x1b[31ma\x1b[0m\r\nb")) == "a b"


def failing(work: Callable[[], object]) -> str:
    try:
        work()
    except AssertionError as error:
        return describe(error)
    raise NotImplementedError


def test_an_assertion_without_a_text_is_named_by_its_line() -> None:
    def of_a_library() -> None:
        raise AssertionError

    assert "of_a_library: raise AssertionError" in failing(of_a_library)
