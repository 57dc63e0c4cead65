"""Export of a module to the files of the torch engine: `packed.json`, its graph, and `packed.safetensors`.

The graph is that of torch.export, written as plain JSON: files of torch.export itself are read with pickle.
The graph is traced with weights in half precision, and the weights are kept as they are, so that the engine
can run in fp16, bf16 or fp32 (`triton_models/backends/onnxruntime/packed_program.py`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from converters.graph.onnx_export import UNLIKE_LENGTHS, quiet_tracing
from converters.graph.varlen import CannotPack
from triton_models.backends.onnxruntime.packed_files import GRAPH, WEIGHTS
from triton_models.backends.onnxruntime.packed_program import CHECKS, HALF, is_allowed

_KINDS = (torch.bfloat16, torch.float16)


def write_text(
    graph: nn.Module, half: nn.Module, vocab_size: int, longest: int | None, directory: Path
) -> None:
    """Write a packed text graph to `directory`.

    Args:
        graph: Maps input_ids int64 [total], item_shape int32 [batch, 1] and places int64 [longest] to float32
            [batch, D]. It has run before, so that the windows of its attention are known.
        half: The part of it that runs in half precision.
        vocab_size: The example ids are below it.
        longest: The most tokens of a text; None for no limit.
        directory: An existing directory.

    Raises:
        CannotPack: The graph does something that the engine does not support.
        OSError: The disk is full. torch may raise what `onnx_export.ERRORS` names.
    """
    shape = torch.tensor(UNLIKE_LENGTHS, dtype=torch.int32).reshape(-1, 1)
    ids = torch.arange(int(shape.sum()), dtype=torch.int64) % vocab_size
    _write(graph, half, (ids, shape, torch.arange(max(UNLIKE_LENGTHS))), directory, longest=longest)


def write_images(graph: nn.Module, half: nn.Module, height: int, width: int, directory: Path) -> None:
    """Write an image graph, uint8 [batch, height, width, 3] to float32 [batch, D]; as `write_text`."""
    _write(
        graph,
        half,
        (torch.zeros(3, height, width, 3, dtype=torch.uint8),),
        directory,
        image=[height, width, 3],
    )


def refuse(reason: str, directory: Path) -> None:
    """Record why the model has no torch engine, in place of its graph."""
    (directory / WEIGHTS).unlink(missing_ok=True)
    (directory / GRAPH).write_text(json.dumps({"refused": reason}) + "\n", encoding="utf-8")


def _write(
    graph: nn.Module, half: nn.Module, example: tuple[Tensor, ...], directory: Path, **facts: object
) -> None:
    with _in_half(half):
        program = _trace(graph, example)
    weights = {**program.constants, **graph.state_dict()}
    specs = program.graph_signature.input_specs
    names = {spec.arg.name: spec.target for spec in specs if spec.kind is not InputKind.USER_INPUT}
    traced = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    written = {
        **facts,
        "inputs": [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT],
        "weights": names,
        "half": sorted({names[name] for name in names if traced[name].dtype == HALF}),
        "nodes": [_node(node) for node in program.graph.nodes if _computes(node)],
        # The vectors of tokens come second, and other engines compute them.
        "output": output.args[0][0].name,
    }
    (directory / GRAPH).write_text(json.dumps(written) + "\n", encoding="utf-8")
    kept = {name: _smallest(_as_tensor(weights[name])) for name in set(names.values())}
    save_file(kept, directory / WEIGHTS)
    # The file is made for its owner alone, and Triton may be another user.
    (directory / WEIGHTS).chmod((directory / GRAPH).stat().st_mode)


def _trace(graph: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple({0: dynamic} for _ in example)
    try:
        with quiet_tracing():
            program: torch.export.ExportedProgram = torch.export.export(
                graph, example, dynamic_shapes=shapes, strict=False
            )
            # Nothing is decomposed; regions such as autocast become plain operations.
            program = program.run_decompositions({})
    finally:
        graph.eval()
    if program.graph_signature.buffers_to_mutate:
        raise CannotPack("the model changes its own state")
    for node in program.graph.nodes:
        # Dropout leaves a copy behind; no operation writes into another's result.
        if str(node.target) == "aten.clone.default" and not node.kwargs:
            node.replace_all_uses_with(node.args[0])
    program.graph.eliminate_dead_code()
    return program


def _computes(node: Node) -> bool:
    return node.op not in ("placeholder", "output") and str(node.target) not in CHECKS


def _node(node: Node) -> list[Any]:
    """Return the name, the operation, and the arguments of a node."""
    name = _operation(node)
    if node.op != "call_function" or not is_allowed(name):
        raise CannotPack(f"the torch engine has no operation {name}")
    return [node.name, name, _plain(node.args), {key: _plain(value) for key, value in node.kwargs.items()}]


def _operation(node: Node) -> str:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}".removeprefix("_")


def _plain(value: Any) -> Any:  # noqa: ANN401 - an argument of any operation
    """Return an argument as JSON; a device is left out, since the engine has its own."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": True}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CannotPack(f"the torch engine has no argument of type {type(value).__name__}")


@contextmanager
def _in_half(module: nn.Module) -> Iterator[None]:
    """Give the parameters another type without values: tracing reads none, and no memory is taken."""
    kept = {parameter: parameter.data for parameter in module.parameters() if parameter.is_floating_point()}
    try:
        for parameter, data in kept.items():
            parameter.data = torch.empty_like(data, dtype=HALF)
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data


def _as_tensor(value: Any) -> Tensor:  # noqa: ANN401 - a constant of any type
    if not isinstance(value, Tensor):
        raise CannotPack(f"the model has a constant of type {type(value).__name__}")
    return value.detach()


def _smallest(weight: Tensor) -> Tensor:
    """Return the weight in half precision if no number changes, as for models that were saved so."""
    if weight.dtype == torch.float32:
        # NaN equals nothing, and the word table has a row of it.
        plain = weight.nan_to_num()
        for kind in _KINDS:
            if torch.equal(weight.to(kind).to(torch.float32).nan_to_num(), plain):
                return weight.to(kind).contiguous()
    return weight.contiguous().clone()
