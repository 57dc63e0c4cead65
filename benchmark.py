"""The load test: a server's throughput in embeddings per second, and the latency of its answers.

    python benchmark.py                                   # 500 clients, 20 requests each
    python benchmark.py --rate 300 --duration 30 --plot load.png
    python benchmark.py --model ViT-B-32 --pretrained laion2b_s34b_b79k --input image --connections 16

The last line on standard output is one JSON object. docs/benchmarks/load-test.md explains the figures.
"""

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.loadtest import machine
from benchmarks.loadtest.figures import Run, figures
from benchmarks.loadtest.images import read_images
from benchmarks.loadtest.plot import check_plot, save_plot
from benchmarks.loadtest.progress import Progress
from benchmarks.loadtest.report import lines
from benchmarks.loadtest.server import Server
from benchmarks.loadtest.settings import ARRIVALS, INPUTS, KINDS, ROUTES, BenchmarkError, Settings
from benchmarks.loadtest.texts import read_texts
from benchmarks.loadtest.workers import Workers

BUSY_CLIENT = 0.7
"""The share of a core above which the client's own work shows in the latencies."""


def arguments() -> argparse.ArgumentParser:
    """Make the command line; its defaults are those of `Settings`."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    default = Settings()

    def option(group: Any, name: str, text: str, **how: Any) -> None:  # noqa: ANN401 - argparse's own
        field = name.removeprefix("--").replace("-", "_")
        group.add_argument(name, help=text, default=getattr(default, field), **how)

    server = parser.add_argument_group("server")
    option(server, "--url", "base URL of the server")
    option(server, "--model", "model to ask; loaded first if necessary")
    option(server, "--pretrained", "weights of a CLIP model: a tag of open_clip, or a checkpoint file")
    option(server, "--route", "route to ask", choices=ROUTES)
    option(server, "--api-key", "sent as a bearer token")
    load = parser.add_argument_group("load")
    option(load, "--connections", "concurrent clients", type=at_least(1))
    option(load, "--requests", "requests of each client", type=at_least(1))
    option(load, "--duration", "seconds, instead of --requests", type=seconds)
    option(load, "--rate", "requests due each second, regardless of answers (open loop)", type=seconds)
    option(load, "--arrivals", "how --rate spreads them", choices=ARRIVALS)
    option(load, "--warmup", "requests before the measurement", type=at_least(0))
    option(load, "--timeout", "seconds until a request counts as failed", type=seconds)
    option(load, "--processes", "processes that send", type=at_least(1))
    text = parser.add_argument_group("texts and images")
    option(text, "--input", "what each request carries", choices=INPUTS)
    option(text, "--texts-per-request", "1: a string; more: a list", type=at_least(1))
    option(text, "--texts", "built-in texts, all different", choices=KINDS)
    option(text, "--text-file", "one text a line, instead of built-in ones", type=Path)
    option(text, "--images-per-request", "1: a string; more: a list", type=at_least(1))
    option(text, "--image-dir", "directory of images to send, instead of built-in ones", type=Path)
    option(text, "--distinct", "draw from so many distinct inputs, to test the cache", type=at_least(1))
    text.add_argument("--seed", type=at_least(0), help="seed of inputs and arrivals (default: new each run)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", default=False, help="print only the JSON object")
    output.add_argument("--plot", type=Path, default=None, metavar="FILE.png", help="draw the run")
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise ValueError
        return value

    return whole_number


def seconds(text: str) -> float:
    """Parse a finite number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError
    return value


def measure(settings: Settings) -> tuple[Run, int, str | None]:
    """Do the whole load test; return the run, the dimension of a vector and the server's version.

    Raises:
        BenchmarkError: The server or the settings do not allow the test.
    """
    server = Server(settings)
    dimension = server.check()
    version = server.version()
    workers = Workers(settings)
    for records in workers.prepare():
        if records.first_failure:
            raise BenchmarkError(f"the warm-up failed: {records.first_failure[1]}")
    before = server.counts()
    progress = Progress(settings, "measuring", settings.total_requests)
    start, processes = workers.run(progress.show)
    progress.end(sum(len(records.answered) for records in processes))
    after = server.counts()
    counts = after.since(before) if after and before else None
    return Run(settings, start, processes, counts), dimension, version


def warn(run: Run) -> None:
    """Print a warning if the figures are doubtful."""
    settings = run.settings
    if run.busy_share > BUSY_CLIENT:
        share = f"{run.busy_share:.0%}"
        print(
            f"Warning: a process of the client was busy {share} of the time; add --processes", file=sys.stderr
        )
    if settings.distinct is not None:
        return
    requests = run.answered.size + settings.warmup
    if settings.text_file is not None:
        _warn_of_repeats(requests * settings.texts_sent, "texts", len(read_texts(settings)), "a file")
    if settings.image_dir is not None:
        there = len(read_images(settings))
        _warn_of_repeats(requests * settings.images_sent, "images", there, "a directory")


def _warn_of_repeats(sent: int, inputs: str, there: int, source: str) -> None:
    if sent > there:
        print(f"Warning: {sent} {inputs} were drawn from {source} of {there}: they repeat", file=sys.stderr)


def main() -> int:
    """Run the command; return 0, or 1 if the run is void or was not possible."""
    parser = arguments()
    options = vars(parser.parse_args())
    only_json, plot = options.pop("json"), options.pop("plot")
    options.setdefault("seed", secrets.randbelow(1 << 31))
    settings = Settings(**options)
    if settings.processes > settings.connections:
        parser.error("--processes must not be more than --connections")
    if settings.route not in ("/infer", f"/infer_{settings.input}"):
        parser.error(f"{settings.route} takes no --input {settings.input}")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        if plot is not None:
            check_plot(plot)
        run, dimension, version = measure(settings)
        found = None if run.failed else figures(run)
        if found and plot is not None:
            hardware = machine.hardware()
            save_plot(plot, run, found, f"{hardware['cpu']}, {hardware['cores']} cores, {date[:10]}")
    except BenchmarkError as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report = {
        "benchmark": "load test",
        "date": date,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "server": version,
        "dimension": dimension,
        "settings": settings.shown(),
        "void": found is None,
        "errors": run.failed,
        "first_error": run.first_failure,
        "figures": found,
    }
    if found is None:
        total = run.failed + run.answered.size
        reason = f"{run.failed} of {total} requests failed; the first: {run.first_failure}"
        print(f"This run is void: {reason}", file=sys.stderr)
    else:
        warn(run)
        if not only_json:
            print("\n".join(lines(settings, found)))
    print(json.dumps(report, default=os.fspath))
    return int(found is None)


if __name__ == "__main__":
    sys.exit(main())
