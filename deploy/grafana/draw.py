"""Draws the dashboard from Prometheus data without Grafana, with the same panels, queries and layout.

python deploy/grafana/draw.py http://127.0.0.1:9090 docs/guides/dashboard.png [minutes]
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

POINTS = 120
WIDTH, HEIGHT = 0.75, 0.36
"""Inches of one column and one row of the grid."""

SCALES = {"s": (1e3, "ms"), "percentunit": (1e2, "%"), "bytes": (2**-20, "MiB"), "reqps": (1.0, "req/s")}


Series = list[tuple[dict[str, str], list[tuple[float, float]]]]
"""Pairs of labels and points; a point is a time in seconds relative to now, and a value."""


def series(prometheus: str, expression: str, minutes: float) -> Series:
    """Return the results of a query over the last minutes."""
    end = time.time()
    window = f"{max(2, round(minutes * 60 / 10))}s"
    query = expression.replace("$__rate_interval", window).replace("$instance", ".*")
    asked: dict[str, str | float] = {
        "query": query,
        "start": end - minutes * 60,
        "end": end,
        "step": minutes * 60 / POINTS,
    }
    answer = httpx.get(f"{prometheus}/api/v1/query_range", params=asked, trust_env=False)
    found = answer.raise_for_status().json()["data"]["result"]
    return [(one["metric"], [(at - end, float(value)) for at, value in one["values"]]) for one in found]


def legend(form: str, labels: dict[str, str]) -> str:
    """Return the name of a series by the panel's legendFormat."""
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form


def draw_stat(axes: Axes, panel: dict[str, Any], prometheus: str, minutes: float) -> None:
    """Draw the latest value of a panel, in the colour of its threshold."""
    scale, unit = SCALES.get(panel["fieldConfig"]["defaults"]["unit"], (1.0, ""))
    found = series(prometheus, panel["targets"][0]["expr"], minutes)
    values = [value for _, points in found for _, value in points if not math.isnan(value)]
    defaults = panel["fieldConfig"]["defaults"]
    colour, text = "grey", "No data"
    if values:
        steps = defaults["thresholds"]["steps"]
        colour = [step["color"] for step in steps if step["value"] is None or values[-1] >= step["value"]][-1]
        text = f"{values[-1] * scale:.4g} {unit}"
        for mapping in defaults.get("mappings", []):
            text = mapping["options"].get(f"{values[-1]:g}", {"text": text})["text"]
    axes.axis("off")
    axes.text(0.5, 0.35, text, ha="center", va="center", fontsize=17, color=colour, weight="bold")


def draw_graph(axes: Axes, panel: dict[str, Any], prometheus: str, minutes: float) -> None:
    """Draw a panel's lines over the last minutes."""
    defaults = panel["fieldConfig"]["defaults"]
    scale, unit = SCALES.get(defaults["unit"], (1.0, ""))
    found = [series(prometheus, target["expr"], minutes) for target in panel["targets"]]
    values = [value for one in found for _, points in one for _, value in points]
    if unit == "ms" and max(values, default=0) > 10:
        scale, unit = 1.0, "s"
    drawn = 0
    for target, one in zip(panel["targets"], found, strict=True):
        for labels, points in one:
            times, heights = zip(*points, strict=True)
            label = legend(target["legendFormat"], labels)
            axes.plot([at / 60 for at in times], [height * scale for height in heights], label=label, lw=1)
            drawn += 1
    for step in defaults["thresholds"]["steps"][1:]:
        top = axes.get_ylim()[1]
        if drawn and step["value"] * scale < 2 * top:
            axes.axhline(step["value"] * scale, color=step["color"], lw=0.8, ls="--")
    axes.set_ylim(bottom=0, top=None if "max" not in defaults else defaults["max"] * scale * 1.02)
    axes.set_xlim(-minutes, 0)
    axes.set_ylabel(unit, fontsize=7)
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=5, loc="upper left", ncols=2)
    else:
        axes.text(0.5, 0.5, "No data", ha="center", va="center", transform=axes.transAxes, color="grey")


def draw(dashboard: dict[str, Any], prometheus: str, minutes: float) -> Figure:
    """Draw all panels at their places in the grid."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(24 * WIDTH, rows * HEIGHT))
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        left, top = place["x"] / 24, 1 - place["y"] / rows
        if panel["type"] == "row":
            figure.text(0.01, top - 0.6 / rows, panel["title"], fontsize=11, weight="bold")
            continue
        bottom, width, height = top - (place["h"] - 0.9) / rows, place["w"] / 24 - 0.04, place["h"] - 2
        inner = (left + 0.028, bottom, width, height / rows)
        axes = figure.add_axes(inner)
        axes.set_title(panel["title"], fontsize=8, loc="left")
        (draw_stat if panel["type"] == "stat" else draw_graph)(axes, panel, prometheus, minutes)
    return figure


if __name__ == "__main__":
    shown = json.loads((Path(__file__).parent / "dashboard.json").read_text())
    over = float(sys.argv[3]) if len(sys.argv) > 3 else 15.0
    draw(shown, sys.argv[1].rstrip("/"), over).savefig(sys.argv[2], dpi=72)
