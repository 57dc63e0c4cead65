"""Which operations of a graph keep fp32 while the others run in bfloat16, told to OpenVINO.

A product with weights, and what lies between two of them and nothing else (attention, activations,
gates), is bfloat16. The residual stream, normalisation, pooling and all that is computed from ids and
lengths stay fp32: there rounding would add up from layer to layer.
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
"""What leads to these, or comes from them, is not between products."""

Edges = Mapping[str, list[str]]


def keep_fp32_where_it_counts(core: Any, model: Any) -> Any:  # noqa: ANN401 - OpenVINO's, without annotations
    """The same OpenVINO model with the operations that keep fp32 marked.

    The mark is an attribute of OpenVINO's own that its Python interface cannot set; its file format can.
    Products with weights take no notice of it.
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
        # Read into memory: the files end with the directory.
        return core.read_model(graph.read_bytes(), openvino.Tensor(np.fromfile(weights, np.uint8)))


def fp32_operations(types: Mapping[str, str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """The operations that keep fp32.

    types: OpenVINO's type of each operation, in an order in which inputs come first. edges: (from, to).
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
        # What comes from ids and lengths alone has no product before it.
        return bool(before & weighted and after & weighted) and not around & (_NORMALISE | {"Result"})

    return {
        number
        for number, kind in types.items()
        if kind not in _COMPUTE_NOTHING and number not in constant and not is_between(number)
    }


def _reach(number: str, edges: Edges, ends: set[str]) -> set[str]:
    """All that can be reached along the edges, not going on past `ends`."""
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
