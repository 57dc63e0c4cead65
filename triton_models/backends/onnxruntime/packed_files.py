"""The files of the torch engine beside `model.onnx`, as far as they are read without torch."""

import json
from pathlib import Path
from typing import Any

GRAPH, WEIGHTS = "packed.json", "packed.safetensors"


class Unreadable(RuntimeError):
    """The model has no graph for torch, or its graph does not fit this version."""


def read(directory: Path) -> dict[str, Any]:
    """Return the graph of a model.

    Raises:
        Unreadable: As `Program`.
    """
    try:
        graph: dict[str, Any] = json.loads((directory / GRAPH).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unreadable("the model was converted without a graph for torch; convert it again") from None
    except ValueError as error:
        raise Unreadable(f"{GRAPH} cannot be read: {error}") from error
    if "refused" in graph:
        raise Unreadable(graph["refused"])
    return graph
