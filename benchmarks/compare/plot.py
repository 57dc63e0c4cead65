"""The picture of a result. Runs in the environment `plot`.

Usage: python plot.py benchmarks.json OUTPUT.png
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, OURS_MORE, PEER, LINE = "#76b900", "#b6d97a", "#8a94a6", "#222831"
PANELS = (
    ("singles", "64 connections, one unique gloss", "texts/s", "engine, glosses"),
    ("bulk", "2 connections, 256 unique glosses", "texts/s", "engine, glosses"),
    ("passages", "16 connections, passages", "texts/s", "engine, passages"),
    ("repeated", "64 connections, 500 distinct glosses", "texts/s", None),
    ("latency", "1 connection, one unique gloss: p50", "ms", "engine, one gloss, ms"),
    ("open", "open loop at 70 % of its own highest rate: p50 to p99", "ms", None),
)


def main(source: Path, output: Path) -> None:
    """One panel a load; a dashed line is the engine in process with no server."""
    result = json.loads(source.read_text(encoding="utf-8"))
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(3, 2, figsize=(12, 9.5), layout="constrained")
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        draw(axis, result, *panel)
    machine = result["machine"]
    place = f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores"
    figure.suptitle(
        f"all-MiniLM-L6-v2 on {place}, {machine['date'][:10]}",
        fontsize=12,
        fontweight="bold",
    )
    figure.savefig(output, dpi=130)


def draw(axis: Any, result: dict[str, Any], load: str, title: str, unit: str, ceiling: str | None) -> None:  # noqa: ANN401 - matplotlib has no types here
    """Bars of one load: the median, with whiskers from the least to the greatest round."""
    measure = "texts_per_second" if unit == "texts/s" else "p50"
    axis.set_title(title, loc="left", fontweight="bold")
    shown = [server for server in result["servers"] if server["loads"][load][measure]][::-1]
    for place, server in enumerate(shown):
        values = server["loads"][load][measure]
        ours = OURS if server["name"] == "ours" else OURS_MORE
        axis.barh(
            place, values["median"], color=ours if server["name"].startswith("ours") else PEER, height=0.7
        )
        ends = (values["min"], server["loads"][load]["p99"]["median"] if load == "open" else values["max"])
        axis.plot(ends, (place, place), color=LINE, linewidth=1)
        digits = 0 if values["median"] >= 100 else 1
        axis.annotate(
            f"{values['median']:,.{digits}f}",
            (max(ends), place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_yticks(range(len(shown)), [server["title"] for server in shown])
    line = result["in_process"].get(ceiling) if ceiling else None
    if line:
        axis.axvline(line["median"], color=LINE, linestyle="--", linewidth=1)
        axis.annotate(
            "engine alone ", (line["median"], 0), (0, 3), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="right", fontsize=7,
        )  # fmt: skip
    axis.set_xlabel(unit)
    axis.margins(x=0.15)
    axis.set_xlim(left=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
