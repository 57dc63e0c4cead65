"""The benchmark of GPUs: models alone, through Triton, and through HTTP.

    benchmarks/gpu/run --into DIRECTORY                                # on a machine with CUDA
    python -m benchmarks.gpu --device cpu --quick --into DIRECTORY     # a rehearsal: its figures mean nothing

docs/benchmarks/gpu.md explains the figures.
"""

import argparse
import json
import shutil
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.environments import WORK, say
from benchmarks.compare.servers import Server
from benchmarks.gpu import alone, report, served
from benchmarks.gpu.models import IMAGES, QUICK, SHAPES, pack, source
from benchmarks.loadtest import machine

NAME = "bench/minilm"
Result = dict[str, Any]


def arguments() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu for a rehearsal")
    parser.add_argument("--quick", action="store_true", help="tiny models and short loads")
    parser.add_argument("--minutes", type=float, default=8, help="no part begins later; default: %(default)s")
    parser.add_argument("--into", type=Path, required=True, help="directory for gpu.json, gpu.md and gpu.png")
    return parser


class Benchmark:
    """One run: its parts are measured one after another, and a part that fails leaves its reason."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = WORK / "gpu"
        self.seconds = 0.2 if options.quick else 3.0
        self.tokens = 2_000 if options.quick else 1 << 17
        self.engine = "torch:fp16"
        self._end = time.monotonic() + options.minutes * 60
        self.found: Result = {
            "device": options.device,
            "quick": options.quick,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": machine.hardware(),
            "versions": {**machine.versions(), "torch": torch.__version__},
            "texts": {},
            "images": {},
            "triton": {},
            "http": {},
        }

    def run(self) -> Result:
        """Measure everything, the most telling parts first."""
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "sources").mkdir(parents=True)
        shapes = {"tiny": QUICK} if self.options.quick else SHAPES
        small, *large = shapes
        for name in shapes if self.options.quick else (small, large[0]):
            self._part("texts", name, partial(self._texts, shapes[name], name))
        made = self._served_model(shapes[small])
        http = partial(
            served.http_rates,
            made,
            seconds=self.seconds,
            connections=(1, 8) if self.options.quick else served.CONNECTIONS,
            bulk=(2, 16) if self.options.quick else served.BULK,
        )
        self._part("http", "1 instance", partial(http, instances=1))
        self._part(
            "triton",
            "1 instance",
            partial(
                served.triton_rates,
                made,
                self.seconds,
                self.engine,
                8 if self.options.quick else served.AT_ONCE,
            ),
        )
        for name in IMAGES[:1] if self.options.quick else IMAGES:
            self._part("images", name, partial(self._images, name))
        for name in large[1:]:
            self._part("texts", name, partial(self._texts, shapes[name], name))
        for count in () if self.options.quick else (2, 4):
            self._part("http", f"{count} instances", partial(http, instances=count))
        return self.found

    def _part(self, group: str, name: str, work: Callable[[], Result]) -> None:
        say(f"{group}: {name} ...")
        start = time.monotonic()
        if start > self._end:
            self.found[group][name] = {"failure": "the time was over"}
            return
        try:
            self.found[group][name] = {**work(), "took_s": time.monotonic() - start}
        except Exception as error:  # noqa: BLE001 - one part must not cost the others
            say(traceback.format_exc())
            self.found[group][name] = {"failure": f"{type(error).__name__}: {str(error)[:300]}"}

    def _texts(self, shape: dict[str, int] | None, name: str) -> Result:
        directory = self.work / name.replace(" ", "_")
        model = pack(source(shape, directory / "source"), directory / "packed")
        return alone.text_rates(model, self.options.device, self.tokens, self.seconds)

    def _images(self, name: str) -> Result:
        options = self.options
        return alone.image_rates(name, self.work / name, options.device, self.seconds, quick=options.quick)

    def _served_model(self, shape: dict[str, int] | None) -> Server:
        found = self.work / "sources" / NAME
        if shape is None:
            shutil.copytree(source(None, found), found)
        else:
            found.parent.mkdir(parents=True)
            source(shape, found)
        # On a CPU the gateway refuses the engine, which it has no use for there.
        return served.server(NAME, self.work, self.engine if self.options.device != "cpu" else "auto")


def main() -> None:
    """Run the command."""
    options = arguments().parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(options)
    try:
        found = benchmark.run()
    finally:
        shutil.rmtree(benchmark.work, ignore_errors=True)
    (options.into / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    page = report.table(found)
    (options.into / "gpu.md").write_text(page, encoding="utf-8")
    print(page)
    report.draw(found, options.into / "gpu.png")


if __name__ == "__main__":
    main()
