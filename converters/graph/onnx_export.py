"""Export of a module with the model contract's signature to `model.onnx`."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.onnx.errors import OnnxExporterError

OPSET = 18
"""Supported by ONNX Runtime 1.14 and later, and so by every Triton container of recent years."""

UNLIKE_LENGTHS = (5, 9, 3, 4)
"""Lengths of the example texts; none is 1, because the exporter treats a dimension of 1 as a constant."""

ERRORS = (
    OnnxExporterError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
"""Exceptions for a graph that cannot be traced or written as ONNX."""

_LARGEST_INLINE = 1_500_000_000
"""Most bytes of weights in the graph's own file; more go to a second file. A protobuf file ends at 2 GB."""


def trace(
    graph: nn.Module,
    vocab_size: int,
    lengths: Sequence[int] = UNLIKE_LENGTHS,
    outputs: Sequence[str] = ("sentence_embedding",),
) -> torch.onnx.ONNXProgram:
    """Trace a text graph to an ONNX program.

    Args:
        graph: Maps int64 [total] and int32 [batch, 1] to float32 [batch, D], and to further outputs if it
            has any.
        vocab_size: The example ids are below it.
        lengths: Token counts of the example texts.
        outputs: Names of the graph's outputs.

    Raises:
        OnnxExporterError: The graph cannot be exported. torch may also raise RuntimeError, and exceptions
            of the graph itself pass through.
    """
    shape = torch.tensor(lengths, dtype=torch.int32).reshape(-1, 1)
    ids = torch.arange(int(shape.sum()), dtype=torch.int64) % vocab_size
    return _trace(graph, (ids, shape), ["input_ids", "item_shape"], outputs)


def trace_images(graph: nn.Module, height: int, width: int) -> torch.onnx.ONNXProgram:
    """Trace an image graph to an ONNX program.

    `graph` maps uint8 [batch, height, width, 3] to float32 [batch, D].

    Raises:
        OnnxExporterError: As in `trace`.
    """
    images = torch.zeros(3, height, width, 3, dtype=torch.uint8)
    return _trace(graph, (images,), ["image"], ["image_embedding"])


def _trace(
    graph: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: Sequence[str]
) -> torch.onnx.ONNXProgram:
    """Trace a graph whose inputs have a variable first dimension."""
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with quiet_tracing():
            traced = torch.export.export(
                graph, example, dynamic_shapes=tuple({0: dynamic} for _ in example), strict=False
            )
            program = torch.onnx.export(
                traced,
                input_names=inputs,
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        # Exporting leaves the module and its children in training mode.
        graph.eval()
    assert program is not None
    return program


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Set torch up for tracing a graph, without its messages."""
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    fast = torch.backends.mha.get_fastpath_enabled()
    # In evaluation mode, torch's own attention is a single operation that no exporter supports.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch itself uses something that it has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        chatter.setLevel(level)


def write(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Write a program to `path`; if its weights are too large for one file, write them to `<path>.data`.

    Raises:
        OSError: The disk is full.
    """
    _strip(program)
    weights = [value.const_value for value in program.model.graph.initializers.values()]
    weight_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    program.save(str(path), external_data=weight_bytes > _LARGEST_INLINE)


def _strip(program: torch.onnx.ONNXProgram) -> None:
    """Remove the notes that exporting leaves in the graph: paths and source lines of this machine."""
    model = program.model
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
