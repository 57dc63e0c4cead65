"""Content hashes of a converted model, from which its version number is made."""

import hashlib
import json
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def file_digest(path: Path) -> str:
    """Return the sha256 of a file that fits in memory."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(directory: Path, settings: dict[str, Any]) -> str:
    """Return the sha256 of everything that determines a vector: graph, weights, tokenizer and `settings`."""
    found = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name.startswith("model.onnx") or path.name == "tokenizer.json":
            found.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    found.update(block)
    text = found.hexdigest() + json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
