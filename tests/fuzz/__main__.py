"""Every property of this directory, each for its share of the time: `python -m tests.fuzz [MINUTES] [WORD]`.

Prints a line for each: minutes, cases, the CPU time of the longest, and the error of one that fails.
The cases are others at each run; a failing one is printed whole, as small as it could be made, to be kept.
"""

import argparse
import importlib
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Verbosity, settings

import tests.fuzz.conftest  # noqa: F401 - its profile must not be loaded over this one's

ROUND = 500
"""Cases between two looks at the clock."""


class Target:
    """One property, with what was seen of it."""

    def __init__(self, name: str, test: Any) -> None:  # noqa: ANN401 - a function as hypothesis made it
        self.name, self.test = name, test
        self.cases, self.seconds, self.longest = 0, 0.0, 0.0
        self.finding = ""
        self._inner: Callable[..., Any] = test.hypothesis.inner_test
        test.hypothesis.inner_test = self._counted

    def run(self, seconds: float) -> None:
        """For so long, or until a case fails."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.finding:
            start = time.monotonic()
            try:
                self.test()
            except Exception as error:  # noqa: BLE001 - each is a finding
                self.finding = "".join(traceback.format_exception(error))
            self.seconds += time.monotonic() - start

    def _counted(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the property takes them
        self.cases += 1
        start = time.process_time()
        try:
            self._inner(*args, **kwargs)
        finally:
            # The first one makes what the others share.
            if self.cases > 1:
                self.longest = max(self.longest, time.process_time() - start)

    def row(self) -> str:
        """As a line of a Markdown table."""
        found = self.finding.strip().splitlines()[-1] if self.finding else "none"
        minutes, longest = f"{self.seconds / 60:.1f}", f"{self.longest * 1000:.0f}"
        return f"| {self.name} | {minutes} | {self.cases:,} | {longest} | {found} |"


def targets(word: str) -> list[Target]:
    """Every property whose name contains `word`."""
    found = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.fuzz.{path.stem}")
        for name, test in vars(module).items():
            if getattr(test, "is_hypothesis_test", False) and test.__module__ == module.__name__:
                full = f"{path.stem.removeprefix('test_')}: {name.removeprefix('test_').replace('_', ' ')}"
                if word in full:
                    found.append(Target(full, test))
    return found


def main() -> int:
    """The exit status: 1 where something was found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=60, help="of all properties together")
    parser.add_argument("word", nargs="?", default="", help="only properties with this in their names")
    options = parser.parse_args()
    settings.register_profile(
        "long",
        max_examples=ROUND,
        deadline=None,
        database=None,
        derandomize=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("long")
    # As in the front end; the suite makes errors of them.
    warnings.simplefilter("ignore")
    chosen = targets(options.word)
    write = sys.stdout.write
    write("| property | minutes | cases | longest, ms of CPU | found |\n| --- | --- | --- | --- | --- |\n")
    for target in chosen:
        target.run(options.minutes * 60 / len(chosen))
        write(target.row() + "\n")
        sys.stdout.flush()
    for target in chosen:
        write(f"\n{target.name}\n{target.finding}\n" if target.finding else "")
    return int(any(target.finding for target in chosen))


if __name__ == "__main__":
    sys.exit(main())
