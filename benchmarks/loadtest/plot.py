"""The picture of a run: how long answers took, and how many came each second."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.loadtest.figures import Run
from benchmarks.loadtest.report import inputs
from benchmarks.loadtest.settings import BenchmarkError, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _INK, _SOFT, _ACCENT = "#2f6db5", "#222222", "#8a8f98", "#d1495b"
_BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
_BINS, _STEPS = 60, 40


def check_plot(path: Path) -> None:
    """Find out before the run whether the picture can be made after it.

    Raises:
        BenchmarkError: matplotlib is missing, or there is no such directory.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise BenchmarkError("--plot needs matplotlib: pip install -r requirements-dev.txt") from error
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise BenchmarkError(f"--plot {path}: must be a .png in a directory that exists")


def save_plot(path: Path, run: Run, found: dict[str, Any], machine: str) -> None:
    """Write the picture; `machine` is a line below it.

    Raises:
        BenchmarkError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = run.settings
    figure = Figure(figsize=(12, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _latencies(left, run, found)
    _throughput(right, run, found)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_SOFT)
        axes.tick_params(colors=_SOFT, labelcolor=_INK)
        axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
    load = (
        f"{settings.connections} connections"
        if settings.rate is None
        else f"{settings.rate:g} requests/s due"
    )
    rate = found["texts_per_second"] + found["images_per_second"]
    figure.suptitle(
        f"{settings.model}: {rate:,.0f} {inputs(settings)}/s\n",
        fontsize=14,
        fontweight="bold",
        color=_INK,
    )
    figure.text(0.5, 0.925, f"{load}, {_request(settings)}", ha="center", fontsize=10, color=_SOFT)
    figure.supxlabel(machine, fontsize=8, color=_SOFT)
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchmarkError(f"--plot {path}: {error.strerror}") from error


def _request(settings: Settings) -> str:
    """What one request carries, in words."""
    texts, images = settings.texts_sent, settings.images_sent
    kind = settings.text_file.name if settings.text_file else settings.texts
    pictures = f"of {settings.image_dir.name}" if settings.image_dir else "640x480 JPEG"
    said = [
        f"{texts} text{'s' * (texts > 1)} a request, {kind}" * bool(texts),
        f"{images} image{'s' * (images > 1)} a request, {pictures}" * bool(images),
    ]
    return "; ".join(part for part in said if part)


def _latencies(axes: "Axes", run: Run, found: dict[str, Any]) -> None:
    shown = float(np.percentile(run.response_ms, 99.5)) * 1.05
    axes.hist(run.response_ms, bins=_BINS, range=(0, shown), color=_BLUE)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.3)
    for height, name in ((1.11, "p50"), (1.19, "p95"), (1.27, "p99")):
        at = found["response_ms"][name]
        axes.vlines(at, 0, top * height, color=_ACCENT, linewidth=1.2)
        to_the_left = at > shown * 0.3  # there is room, and only shorter lines stand there
        axes.annotate(
            f"{name}  {at:,.1f} ms",
            (at, top * height),
            xytext=(-5 if to_the_left else 5, 0),
            textcoords="offset points",
            ha="right" if to_the_left else "left",
            va="top",
            color=_ACCENT,
            fontsize=9,
            bbox=_BEHIND_TEXT,
        )
    axes.set_xlim(0, shown)
    axes.set_title("Response time", loc="left", fontsize=11, color=_INK)
    axes.set_xlabel(f"ms (the slowest: {found['response_ms']['max']:,.1f} ms)", color=_INK)
    axes.set_ylabel("requests", color=_INK)


def _throughput(axes: "Axes", run: Run, found: dict[str, Any]) -> None:
    # At least ten answers a step on the mean, so that the line shows the server and not the counting.
    steps = max(2, min(_STEPS, int(run.answered.size / 10)))
    counts, edges = np.histogram(run.answered, bins=steps, range=(0, run.seconds))
    per_second = counts / (edges[1] - edges[0])
    axes.stairs(per_second, edges, fill=True, color=_BLUE, alpha=0.25)
    axes.stairs(per_second, edges, color=_BLUE, linewidth=1.5, baseline=None)
    axes.axhline(found["qps"], color=_ACCENT, linewidth=1.2)
    axes.set_ylim(0, max(float(per_second.max()), run.settings.rate or 0) * 1.2)
    axes.annotate(
        f"mean  {found['qps']:,.1f}/s",
        (run.seconds, found["qps"]),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        color=_ACCENT,
        fontsize=9,
        bbox=_BEHIND_TEXT,
    )
    axes.set_xlim(0, run.seconds)
    axes.set_title("Throughput", loc="left", fontsize=11, color=_INK)
    axes.set_xlabel("seconds", color=_INK)
    axes.set_ylabel("requests answered each second", color=_INK)
