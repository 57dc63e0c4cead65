"""A module with the model contract's signature to `model.onnx`."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.onnx.errors import OnnxExporterError

OPSET = 18
"""Understood by ONNX Runtime 1.14 and later, so by every Triton container of the last years."""

UNLIKE_LENGTHS = (5, 9, 3, 4)
"""None of them 1: the exporter would take a dimension of 1 for a constant."""

ERRORS = (OnnxExporterError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What a graph raises that cannot be traced or written as ONNX."""

_LARGEST_INLINE = 1_500_000_000
"""Bytes of weights; above, they go to a file beside the graph. A protobuf file ends at 2 GB."""


def trace(
    graph: nn.Module,
    vocab_size: int,
    lengths: Sequence[int] = UNLIKE_LENGTHS,
    outputs: Sequence[str] = ("sentence_embedding",),
) -> torch.onnx.ONNXProgram:
    """A text `graph` (int64 [total], int32 [batch, 1] -> float32 [batch, D]) as an ONNX program.

    vocab_size: example ids are drawn below it. lengths: of the example's texts. outputs: names of what the
    graph gives.

    Raises:
        torch.onnx.errors.OnnxExporterError, RuntimeError, and whatever the graph raises while it is traced.
    """
    shape = torch.tensor(lengths, dtype=torch.int32).reshape(-1, 1)
    ids = torch.arange(int(shape.sum()), dtype=torch.int64) % vocab_size
    return _trace(graph, (ids, shape), ["input_ids", "item_shape"], outputs)


def trace_images(graph: nn.Module, height: int, width: int) -> torch.onnx.ONNXProgram:
    """An image `graph` (uint8 [batch, height, width, 3] -> float32 [batch, D]) as an ONNX program.

    Raises:
        As `trace`.
    """
    images = torch.zeros(3, height, width, 3, dtype=torch.uint8)
    return _trace(graph, (images,), ["image"], ["image_embedding"])


def _trace(
    graph: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: Sequence[str]
) -> torch.onnx.ONNXProgram:
    """Of every input the first dimension may change."""
    dynamic = torch.export.Dim.DYNAMIC
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    fast = torch.backends.mha.get_fastpath_enabled()
    # In evaluation mode torch's own attention is one operation that no exporter knows.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch's own use of what it deprecates.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
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
        torch.backends.mha.set_fastpath_enabled(fast)
        chatter.setLevel(level)
        # Exporting leaves a module in training mode, its children included.
        graph.eval()
    assert program is not None
    return program


def write(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Write a program to `path`, weights beyond the size of one file to `<path>.data` beside it.

    Raises:
        OSError: the disk is full.
    """
    _strip(program)
    weights = [value.const_value for value in program.model.graph.initializers.values()]
    weight_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    program.save(str(path), external_data=weight_bytes > _LARGEST_INLINE)


def _strip(program: torch.onnx.ONNXProgram) -> None:
    """Remove what exporting notes in the graph: paths and source lines of this machine."""
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
