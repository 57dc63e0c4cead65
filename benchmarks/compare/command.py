"""The course of both comparisons, and their common options."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from benchmarks.compare import report
from benchmarks.compare.environments import (
    PEERS,
    ROOT,
    WORK,
    ProcessFailed,
    describe_machine,
    install,
    model_files,
    output_of,
    python,
    say,
)
from benchmarks.compare.servers import ONNX, Server
from benchmarks.compare.targets import Comparison, Round

QUICK_SECONDS, FULL_SECONDS = 3.0, 10.0
FULL_ROUNDS = 5


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """Make the command line with the options of every comparison."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--rounds", type=int, help=f"every server once a round (default {FULL_ROUNDS})")
    made.add_argument("--seconds", type=float, help=f"duration of one load (default {FULL_SECONDS:g})")
    made.add_argument("--quick", action="store_true", help="one round of 3 s a load: a try, not a result")
    made.add_argument("--publish", action="store_true", help="write the page though the run is a part")
    return made


def run(
    comparison: Comparison,
    options: argparse.Namespace,
    wanted: Sequence[Server],
    run_round: Callable[[Sequence[Server], int, float], Round],
    *,
    full: bool,
    soak_seconds: float | None = None,
) -> int:
    """Measure in rounds, print the tables and write the results.

    Args:
        comparison: The comparison.
        options: The command line.
        wanted: The servers, whose environments are installed first.
        run_round: Measures one round, given the servers, the round's number and the seconds of a load.
        full: Whether the published results are replaced without `--publish`.
        soak_seconds: Duration of the mixed load, for the record.

    Returns:
        The exit status, which is 0 if everything was measured, whether or not the figures hold.
    """
    seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    published = full or options.publish
    data = ROOT / "benchmarks" / "results" if published else WORK / "results"
    page = ROOT / "docs" / "benchmarks" if published else WORK / "results"
    WORK.mkdir(exist_ok=True)
    busy = os.getloadavg()[0]
    try:
        missing = _install(wanted)
        servers = [server for server in wanted if server.name not in missing]
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


def _install(servers: Sequence[Server]) -> dict[str, str]:
    """Install the environments of the servers; return the reason for each that failed, by its name."""
    missing: dict[str, str] = {}
    for server in servers:
        try:
            if server.environment:
                install(server.environment)
            if "{onnx}" in server.command or server.directory == ONNX:
                _export()
        except ProcessFailed as error:
            missing[server.name] = f"could not be installed: {error}"
            say(f"{server.title}: {missing[server.name]}")
    return missing


def _export() -> None:
    """Make the ordinary ONNX export that some peers need, once.

    Raises:
        ProcessFailed: The export failed.
    """
    if (ONNX / "exported").is_file():
        return
    install("infinity")
    say("exporting the model to an ordinary ONNX file, for peers that want one (once) ...")
    output_of([python("infinity"), PEERS / "export_onnx.py", model_files(), ONNX])
    (ONNX / "exported").touch()
