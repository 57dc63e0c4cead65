"""The table and the picture of the GPU benchmark."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.models import LENGTHS
from benchmarks.loadtest.plot import bars, canvas

METHODS = ("library fp32", "library fp16", "packed fp16", "packed bf16")

PUBLISHED = """\
| published by others | condition | figure |
| --- | --- | --- |
| Arctic Inference | one H200, BERT-base shape, 50 tokens | 1,600,000 tokens/s |
| IgniteMS | A100, e5-base, 68 tokens | 17,300 texts/s |
| TEI, as IgniteMS measured it | A100, e5-base, 68 tokens | 8,700 texts/s |
| the first users of this server | RTX 2080 Super, e5-small | 560 requests/s |
"""

Result = dict[str, Any]


def table(found: Result) -> str:
    """Return the page's tables, in Markdown; a part that failed has its reason."""
    hardware = "; ".join(found["hardware"]["gpus"]) or found["hardware"]["cpu"]
    lines = [
        f"{found['device']}: {hardware}, {found['date']}.",
        "",
        "| model | tokens a text | "
        + " | ".join(METHODS)
        + " | tokens/s, packed fp16 | least cosine, fp16 |",
        "| --- | --- | " + "--- | " * len(METHODS) + "--- | --- |",
    ]
    for model, result in found["texts"].items():
        if "failure" in result:
            lines.append(f"| {model} | {result['failure']} |")
            continue
        for kind in LENGTHS:
            row = result[kind]
            rates = " | ".join(f"{row[method]:,.0f}" for method in METHODS)
            tokens = row["packed fp16"] * row["mean_tokens"]
            lines.append(
                f"| {model} | {kind} | {rates} | {tokens:,.0f} | {row['cosine of packed fp16']:.6f} |"
            )
    lines += ["", "Texts a second; the library with tokenization, packed without.", ""]
    for part in ("images", "triton", "http"):
        lines += [f"| {part} | measure | value |", "| --- | --- | --- |"]
        lines += [f"| {name} | {measure} | {value} |" for name, measure, value in _flat(found[part])]
        lines.append("")
    return "\n".join([*lines, PUBLISHED])


def _flat(part: Result) -> list[tuple[str, str, str]]:
    rows = []
    for name, result in part.items():
        for measure, value in result.items():
            if isinstance(value, dict):
                value = value.get("failure") or value["texts_per_second"]
            rows.append((name, measure, _number(value) if isinstance(value, float) else str(value)))
    return rows


def _number(value: float) -> str:
    return f"{value:.6f}" if value <= 1 else f"{value:,.1f}"


def draw(found: Result, path: Path) -> None:
    """Draw the texts a second of the models alone."""
    whole = {model: result for model, result in found["texts"].items() if "failure" not in result}
    if not whole:
        return
    figure, panels = canvas(
        len(whole), len(LENGTHS), (16, 3 * len(whole)), f"Models alone, {found['device']}"
    )
    each = iter(panels)
    for model, result in whole.items():
        for kind in LENGTHS:
            rates = [(method, result[kind][method], method.startswith("packed")) for method in METHODS]
            bars(
                next(each), f"{model}, {kind}", "texts/s", [(name, x, x, x, ours) for name, x, ours in rates]
            )
    figure.savefig(path)
