"""The course of both comparisons, and their common options."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.compare import report
from benchmarks.compare.environments import ROOT, WORK, ProcessFailed, describe_machine
from benchmarks.compare.servers import Server
from benchmarks.compare.targets import Comparison, Round

QUICK_SECONDS, FULL_SECONDS = 3.0, 10.0
FULL_ROUNDS = 5

Prepare = Callable[[], tuple[Sequence[Server], dict[str, str]]]
"""Returns the servers that can be started, and the reason for each that cannot, by its name."""


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """Make the command line with the options of every comparison."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--rounds", type=int, help=f"every server once a round (default {FULL_ROUNDS})")
    made.add_argument("--seconds", type=float, help=f"duration of one load (default {FULL_SECONDS:g})")
    made.add_argument("--quick", action="store_true", help="one round of 3 s a load: a try, not a result")
    made.add_argument(
        "--output",
        type=Path,
        help="directory of the results (default: docs/benchmarks and benchmarks/results; "
        "of a part or a quick run: benchmarks/.work/results)",
    )
    return made


def run(
    comparison: Comparison,
    options: argparse.Namespace,
    prepare: Prepare,
    run_round: Callable[[Sequence[Server], int, float], Round],
    *,
    full: bool,
    soak_seconds: float | None = None,
) -> int:
    """Measure in rounds, print the tables and write the results.

    Args:
        comparison: The comparison.
        options: The command line.
        prepare: Installs and makes everything that the rounds need.
        run_round: Measures one round, given the servers, the round's number and the seconds of a load.
        full: Whether the published results are replaced.
        soak_seconds: Duration of the mixed load, for the record.

    Returns:
        The exit status, which is 0 if everything was measured, whether or not the figures hold.
    """
    seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    data = options.output or (ROOT / "benchmarks" / "results" if full else WORK / "results")
    page = options.output or (ROOT / "docs" / "benchmarks" if full else WORK / "results")
    WORK.mkdir(exist_ok=True)
    busy = os.getloadavg()[0]
    try:
        servers, missing = prepare()
        measures = [run_round(servers, number, seconds) for number in range(1, rounds + 1)]
        machine = describe_machine(server.environment for server in servers)
    except ProcessFailed as error:
        print(error, file=sys.stderr)
        return 1
    for measured in measures:
        measured |= {name: {"failure": reason} for name, reason in missing.items()}
    settings = {"rounds": rounds, "seconds_per_load": seconds}
    if soak_seconds is not None:
        settings["soak_seconds"] = soak_seconds
    result = report.summary(comparison, measures, {**machine, "load_average_at_start": busy}, settings)
    print(report.markdown(comparison, result))
    report.write(comparison, result, data, page)
    return 0
