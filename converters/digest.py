"""What the version number of a converted model is made of."""

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def digest(directory: Path) -> str:
    """sha256 of the graph, its weights and the tokenizer: all files that make a vector of an input."""
    found = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name.startswith("model.onnx") or path.name == "tokenizer.json":
            found.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    found.update(block)
    return found.hexdigest()
