"""The pictures of all benchmarks: a run of the load test, and the style and bars of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.loadtest.figures import Run
from benchmarks.loadtest.report import inputs
from benchmarks.loadtest.settings import BenchmarkError, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, INK, SOFT, ACCENT = "#2f6db5", "#222222", "#8a8f98", "#d1495b"
_BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
_BINS, _STEPS = 60, 40

Bar = tuple[str, float, float, float, bool]
"""One bar of a comparison: label, median, both ends of its whisker, and whether it has our colour."""


def canvas(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple["Figure", list["Axes"]]:
    """Make a figure with panels in the style of all pictures; `size` is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold", color=INK)
    panels = list(np.asarray(figure.subplots(rows, columns)).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.tick_params(colors=SOFT, labelcolor=INK)
        axes.set_axisbelow(True)
    return figure, panels


def bars(axes: "Axes", title: str, unit: str, rows: Sequence[Bar], line: float | None = None) -> None:
    """Draw horizontal bars from the bottom up, and `line`, the engine without a server, as a dashed line."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    for label, median, low, high, ours in rows:
        whisker = [[median - low], [high - median]]
        color = BLUE if ours else SOFT
        drawn = axes.barh(
            label, median, xerr=whisker, color=color, height=0.7, error_kw={"ecolor": INK, "elinewidth": 1}
        )
        text = f"{median:,.{0 if median >= 100 else 1}f}"
        axes.bar_label(drawn, [text], padding=4, fontsize=9, color=INK)
    if line:
        axes.axvline(line, color=ACCENT, linestyle="--", linewidth=1)
        _note(axes, "engine alone", (line, -0.5), (-3, 3), ACCENT, ha="right")
    axes.set_xlabel(unit, color=INK)
    axes.margins(x=0.15)
    axes.set_xlim(left=0)


def check_plot(path: Path) -> None:
    """Check before the run that the picture can be made after it.

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
    """Draw a run of the load test; `machine` is written below the picture.

    Raises:
        BenchmarkError: The file cannot be written.
    """
    settings = run.settings
    rate = found["texts_per_second"] + found["images_per_second"]
    title = f"{settings.model}: {rate:,.0f} {inputs(settings)}/s\n"
    figure, (left, right) = canvas(1, 2, (12, 5), title)
    for axes in (left, right):
        axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    _latencies(left, run, found)
    _throughput(right, run, found)
    due = settings.rate
    load = f"{settings.connections} connections" if due is None else f"{due:g} requests/s due"
    figure.text(0.5, 0.925, f"{load}, {_request(settings)}", ha="center", fontsize=10, color=SOFT)
    figure.supxlabel(machine, fontsize=8, color=SOFT)
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchmarkError(f"--plot {path}: {error.strerror}") from error


def _request(settings: Settings) -> str:
    """Describe the inputs of one request."""
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
    axes.hist(run.response_ms, bins=_BINS, range=(0, shown), color=BLUE)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.3)
    for height, name in ((1.11, "p50"), (1.19, "p95"), (1.27, "p99")):
        at = found["response_ms"][name]
        axes.vlines(at, 0, top * height, color=ACCENT, linewidth=1.2)
        # There is room on the left, where the lines are shorter.
        left = at > shown * 0.3
        side: Literal["left", "right"] = "right" if left else "left"
        place, offset = (at, top * height), (-5 if left else 5, 0)
        _note(axes, f"{name}  {at:,.1f} ms", place, offset, ACCENT, ha=side, va="top")
    axes.set_xlim(0, shown)
    axes.set_title("Response time", loc="left", fontsize=11, color=INK)
    axes.set_xlabel(f"ms (the slowest: {found['response_ms']['max']:,.1f} ms)", color=INK)
    axes.set_ylabel("requests", color=INK)


def _throughput(axes: "Axes", run: Run, found: dict[str, Any]) -> None:
    # Each step has at least ten answers on average; with fewer, the line would show mostly random noise.
    steps = max(2, min(_STEPS, int(run.answered.size / 10)))
    counts, edges = np.histogram(run.answered, bins=steps, range=(0, run.seconds))
    per_second = counts / (edges[1] - edges[0])
    axes.stairs(per_second, edges, fill=True, color=BLUE, alpha=0.25)
    axes.stairs(per_second, edges, color=BLUE, linewidth=1.5, baseline=None)
    axes.axhline(found["qps"], color=ACCENT, linewidth=1.2)
    axes.set_ylim(0, max(float(per_second.max()), run.settings.rate or 0) * 1.2)
    _note(axes, f"mean  {found['qps']:,.1f}/s", (run.seconds, found["qps"]), (-4, 5), ACCENT, ha="right")
    axes.set_xlim(0, run.seconds)
    axes.set_title("Throughput", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("seconds", color=INK)
    axes.set_ylabel("requests answered each second", color=INK)


def _note(
    axes: "Axes",
    text: str,
    at: tuple[float, float],
    offset: tuple[int, int],
    color: str,
    ha: Literal["left", "right"] = "left",
    va: Literal["baseline", "top"] = "baseline",
) -> None:
    """Write a note beside a point, `offset` points away from it."""
    axes.annotate(
        text,
        at,
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        color=color,
        fontsize=9,
        bbox=_BEHIND_TEXT,
    )
