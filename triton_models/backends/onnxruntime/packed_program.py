"""The torch engine's graph and weights, from `packed.json` and `packed.safetensors` beside `model.onnx`.

Both files are plain data. The graph names operations of torch, which are called one after another. Torch is
imported.
"""

import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

import triton_models.backends.onnxruntime.varlen_attention  # noqa: F401 - registers the operation
from triton_models.backends.onnxruntime.packed_files import GRAPH, WEIGHTS, Unreadable, read

HALF = torch.float16
"""The type with which graphs are traced; it stands for the engine's own."""

CHECKS = frozenset(
    f"aten.{name}"
    for name in (
        "_assert_scalar.default",
        "_assert_tensor_metadata.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    )
)
"""Operations that only check what the exporter assumed."""

_OPERATIONS = ("aten.", "embedding_server.")
_WAITS = ("aten.item.", "aten._local_scalar_dense.", "aten.nonzero.")
"""Operations for whose results the GPU must be waited for, which no CUDA graph can hold."""
_NUMBERS: dict[str, Callable[..., Any]] = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in (
        (operator, "add sub mul floordiv mod neg truediv pow getitem eq ne lt le gt ge and_ or_ not_"),
        (torch, "sym_max sym_min sym_int sym_float sym_not"),
        (math, "ceil floor trunc"),
    )
    for name in names.split()
}
"""Functions of Python's numbers; sizes are such numbers."""


def is_allowed(name: str) -> bool:
    """Return whether a graph may call the operation."""
    return name in _NUMBERS or (name.startswith(_OPERATIONS) and not name.startswith(_WAITS))


class Program:
    """A graph with its weights on one device.

    Args:
        directory: Has both files.
        device: Such as `cuda:0`.
        dtype: Type of the weights and of most of the computation.

    Raises:
        Unreadable: There is no graph; the message has the converter's reason.
    """

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        graph = read(directory)
        self.device, self._dtype = device, dtype
        half = set(graph["half"])
        weights = {
            name: weight.to(dtype if name in half else torch.float32)
            if weight.is_floating_point()
            else weight
            for name, weight in load_file(directory / WEIGHTS, device=str(device)).items()
        }
        self._constants = {name: weights[stored] for name, stored in graph["weights"].items()}
        self._inputs: list[str] = graph["inputs"]
        self._output: str = graph["output"]
        drops = _last_uses(graph["nodes"], {*self._constants, self._output})
        self._steps = [
            _Step(
                name,
                _function(operation),
                self._value(args),
                {key: self._value(value) for key, value in options.items()},
                dropped,
            )
            for (name, operation, args, options), dropped in zip(graph["nodes"], drops, strict=True)
        ]

    def __call__(self, *given: Tensor) -> Tensor:
        """Compute the output of inputs on the device; torch's current stream is not waited for."""
        values: dict[str, Any] = {**self._constants, **dict(zip(self._inputs, given, strict=True))}
        with torch.inference_mode():
            for step in self._steps:
                options = {key: _fill(value, values) for key, value in step.options.items()}
                values[step.name] = step.function(*_fill(step.args, values), **options)
                for name in step.dropped:
                    del values[name]
        result: Tensor = values[self._output]
        return result

    def _value(self, value: Any) -> Any:  # noqa: ANN401 - an argument of any operation
        """Return an argument of the graph, with a `_Ref` where a result of another step goes."""
        if isinstance(value, list):
            return [self._value(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "node" in value:
            return _Ref(value["node"])
        if "device" in value:
            return self.device
        named = getattr(torch, value["torch"])
        return self._dtype if named is HALF else named


class _Step(NamedTuple):
    """One call of a function; `dropped` names the results that are not needed after it."""

    name: str
    function: Callable[..., Any]
    args: list[Any]
    options: dict[str, Any]
    dropped: list[str]


class _Ref(str):
    """The name of a step or an input, whose result goes here."""


def _fill(args: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401 - arguments of any operation
    if type(args) is _Ref:
        return values[args]
    if type(args) is list:
        return [_fill(one, values) for one in args]
    return args


def _function(name: str) -> Callable[..., Any]:
    if not is_allowed(name):
        raise Unreadable(f"{GRAPH} names the operation {name}, which is not allowed")
    if name in _NUMBERS:
        return _NUMBERS[name]
    space, operation, overload = name.split(".")
    found: Any = getattr(torch.ops, space)
    try:
        function: Callable[..., Any] = getattr(getattr(found, operation), overload)
    except AttributeError as error:
        raise Unreadable(f"this torch has no operation {name}") from error
    return function


def _last_uses(nodes: list[Any], kept: set[str]) -> list[list[str]]:
    """Return, for each step, the results that no later step uses; their memory is given back there."""
    seen: set[str] = set(kept)
    drops = []
    for name, _, args, options in reversed(nodes):
        used = _names([args, list(options.values()), {"node": name}]) - seen
        seen |= used
        drops.append(sorted(used))
    return drops[::-1]


def _names(value: Any) -> set[str]:  # noqa: ANN401 - arguments of any operation
    if isinstance(value, list):
        return set().union(*map(_names, value))
    return {value["node"]} if isinstance(value, dict) and "node" in value else set()
