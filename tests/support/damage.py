"""Model directories with one thing damaged in each; the same ones at every run."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.fuzz.mutations import broken_json, mutated

Change = Callable[[Path], None]
NUMBERS: tuple[Any, ...] = (0, -1, 3, 10**7, 0.5, "7", None)
"""Values for a number of a configuration, none of which is likely to be right."""


@dataclass(frozen=True)
class Damage:
    """One change to a copy of a model.

    Attributes:
        name: The name of the case.
        apply: Changes the directory.
    """

    name: str
    apply: Change


def damages(model: Path, others: list[Path], seed: int, jsons: int) -> Iterator[Damage]:
    """Yield the changes to a model.

    Args:
        model: The sound model.
        others: Sound models of other kinds, of which files are put in place of its own.
        seed: Of what is drawn by chance.
        jsons: Changes to each JSON file that are drawn by chance.
    """
    rng = random.Random(seed)
    files = sorted(path.relative_to(model) for path in model.rglob("*") if path.is_file())
    for file in files:
        yield from _of_bytes(model, file, rng)
        if file.suffix == ".json":
            yield from _of_json(model, file, rng, jsons)
    for other in others:
        for file in files:
            if (other / file).is_file() and (other / file).read_bytes() != (model / file).read_bytes():
                yield Damage(f"{file} of {other.name}", _copies(other, file))
        yield Damage(f"tokenizer of {other.name}", _tokenizer_of(other))
    for file in files:
        if file.suffix == ".safetensors":
            yield from _of_weights(model, file, rng)


def _of_bytes(model: Path, file: Path, rng: random.Random) -> Iterator[Damage]:
    content = (model / file).read_bytes()
    garbled = mutated(rng, content) if content else b"\0"
    yield Damage(f"{file} missing", lambda root: (root / file).unlink())
    for name, left in (("empty", b""), ("half", content[: len(content) // 2]), ("garbled", garbled)):
        yield Damage(f"{file} {name}", lambda root, left=left: _write(root / file, left))  # type: ignore[misc]


def _of_json(model: Path, file: Path, rng: random.Random, count: int) -> Iterator[Damage]:
    document = json.loads((model / file).read_text())
    if isinstance(document, dict) and file.name != "tokenizer.json":
        numbers = [key for key, value in document.items() if type(value) in (int, float)]
        for key in numbers:
            changed = {**document, key: rng.choice(NUMBERS)}
            yield Damage(
                f"{file} {key}={changed[key]!r}",
                lambda root, changed=changed: _write(root / file, json.dumps(changed).encode()),  # type: ignore[misc]
            )
    for number in range(count):
        content = broken_json(rng, document)
        yield Damage(
            f"{file} JSON {number}",
            lambda root, content=content: _write(root / file, content),  # type: ignore[misc]
        )


def _of_weights(model: Path, file: Path, rng: random.Random) -> Iterator[Damage]:
    names = sorted(load_file(model / file))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
        "lost": lambda _: None,
        "transposed": lambda tensor: tensor.flatten().reshape(-1, 1).contiguous(),
        "shortened": lambda tensor: tensor[: max(1, len(tensor) // 2)].clone() if tensor.ndim else None,
        "NaN": lambda tensor: torch.full_like(tensor, torch.nan),
        "infinite": lambda tensor: torch.full_like(tensor, torch.inf),
        "zero": torch.zeros_like,
        "whole numbers": lambda tensor: tensor.to(torch.int64),
    }
    for kind, change in changes.items():
        name = rng.choice(names)
        yield Damage(f"{file} {name} {kind}", _tensor(file, name, change))


def _tensor(file: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Change:
    def apply(root: Path) -> None:
        weights = load_file(root / file)
        changed = change(weights.pop(name))
        save_file(weights if changed is None else {**weights, name: changed}, root / file, {"format": "pt"})

    return apply


def _copies(other: Path, file: Path) -> Change:
    return lambda root: _write(root / file, (other / file).read_bytes())


def _tokenizer_of(other: Path) -> Change:
    def apply(root: Path) -> None:
        for path in other.iterdir():
            if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "spiece")):
                shutil.copy(path, root / path.name)

    return apply


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
