"""Mixed precision in OpenVINO: some operations of a graph keep fp32 while the others run in bfloat16.

Products with weights run in bfloat16, and so do the operations between two of them (attention, activations,
gates). The residual stream, normalisation, pooling and everything computed from ids and lengths alone stay in
fp32, because rounding there would add up from layer to layer.
"""

import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_COMPUTE_NOTHING = frozenset({"Const", "Parameter", "Result"})
_NORMALISE = frozenset({"MVN", "NormalizeL2", "ReduceMean", "ReduceL2"})
"""Normalising operations; an operation that leads to one or follows one is not between products."""

Edges = Mapping[str, list[str]]


def keep_fp32_where_it_counts(core: Any, model: Any) -> Any:  # noqa: ANN401 - OpenVINO's, without annotations
    """Return the OpenVINO model with a mark on the operations that keep fp32.

    The mark is an attribute of OpenVINO that its Python interface cannot set, but its file format can.
    Products with weights ignore it.
    """
    import openvino

    with tempfile.TemporaryDirectory() as directory:
        graph, weights = Path(directory, "model.xml"), Path(directory, "model.bin")
        openvino.serialize(model, graph, weights)
        tree = ET.parse(graph)  # noqa: S314 - written by the line above
        root = tree.getroot()
        layers = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
        edges = [
            (edge.get("from-layer", ""), edge.get("to-layer", "")) for edge in root.iterfind("edges/edge")
        ]
        types = {number: layer.get("type", "") for number, layer in layers.items()}
        for number in fp32_operations(types, edges):
            _mark(layers[number])
        tree.write(graph)
        # The weights are read into memory because the files are deleted with the directory.
        return core.read_model(graph.read_bytes(), openvino.Tensor(np.fromfile(weights, np.uint8)))


def fp32_operations(types: Mapping[str, str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """Return the operations that keep fp32.

    Args:
        types: OpenVINO's type of each operation, ordered so that inputs come first.
        edges: Pairs (from, to) of operations.
    """
    inputs: dict[str, list[str]] = defaultdict(list)
    outputs: dict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        inputs[target].append(source)
        outputs[source].append(target)
    constant: set[str] = set()
    for number, kind in types.items():
        if kind == "Const" or (inputs[number] and constant.issuperset(inputs[number])):
            constant.add(number)
    weighted = {
        number for number, kind in types.items() if kind == "MatMul" and constant.intersection(inputs[number])
    }

    def is_between(number: str) -> bool:
        before = _reach(number, inputs, weighted) - constant
        after = _reach(number, outputs, weighted)
        around = {types[other] for other in (before | after) - weighted} | {types[number]}
        # An operation on ids and lengths alone has no product before it.
        return bool(before & weighted and after & weighted) and not around & (_NORMALISE | {"Result"})

    return {
        number
        for number, kind in types.items()
        if kind not in _COMPUTE_NOTHING and number not in constant and not is_between(number)
    }


def _reach(number: str, edges: Edges, ends: set[str]) -> set[str]:
    """Return all operations that can be reached along the edges without passing through `ends`."""
    seen: set[str] = set()
    waiting = list(edges[number])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            if other not in ends:
                waiting += edges[other]
    return seen


def _mark(layer: ET.Element) -> None:
    notes = layer.find("rt_info")
    if notes is None:
        notes = ET.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, notes)
    ET.SubElement(notes, "attribute", name="precise", version="0")
