"""What the version number of a converted model is made of."""

import hashlib
import json
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def file_digest(path: Path) -> str:
    """sha256 of one file that fits in memory."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(directory: Path, settings: dict[str, Any]) -> str:
    """sha256 of all that makes a vector of an input: graph, weights, tokenizer, and `settings` beside."""
    found = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name.startswith("model.onnx") or path.name == "tokenizer.json":
            found.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    found.update(block)
    text = found.hexdigest() + json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
