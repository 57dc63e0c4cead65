"""All benchmarks by one command: `benchmarks/run`, or `python -m benchmarks` in the project's environment.

Installs the peers, measures in rounds, writes a table, a plot and JSON. Progress goes to stderr, the table
to stdout.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import report
from benchmarks.compare.environments import (
    HERE,
    ROOT,
    WORK,
    InstallError,
    install,
    model_files,
    offline,
    python,
)
from benchmarks.compare.machine import describe_machine
from benchmarks.compare.rounds import InProcessFailed, Plan, run_round, say
from benchmarks.compare.servers import ONNX, SERVERS, Server
from benchmarks.compare.targets import LOADS, Load, Round
from benchmarks.compare.texts import Library, TextsMissing

NEEDS_SINGLES = {"open", "repeated"}
QUICK_SECONDS, FULL_SECONDS = 3.0, 10.0
FULL_ROUNDS, FULL_SOAK = 5, 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything was measured, whether or not the figures hold."""
    options = _parser().parse_args(arguments)
    full = not (options.quick or options.only or options.peers)
    soak = options.soak if options.soak is not None else FULL_SOAK * full
    seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    output = options.output or (ROOT / "docs" if full else WORK / "results")
    WORK.mkdir(exist_ok=True)
    busy = os.getloadavg()[0]
    try:
        servers, missing = _prepare(options.peers)
        plan = Plan(_loads(options.only), servers, seconds, soak)
        measures = _measure(plan, rounds, missing)
    except (TextsMissing, InstallError, InProcessFailed) as error:
        print(error, file=sys.stderr)
        return 1
    settings = {"rounds": rounds, "seconds_per_load": seconds, "soak_seconds": soak}
    machine = {**describe_machine(servers), "load_average_at_start": busy}
    result = report.summary(measures, machine, settings)
    print(report.markdown(result))
    report.write(result, output)
    return 0


def _measure(plan: Plan, rounds: int, missing: dict[str, str]) -> list[Round]:
    library = Library(model_files() / "tokenizer.json")
    done: list[Round] = []
    for number in range(1, rounds + 1):
        measures = run_round(plan, number, library.round(number))
        for name, reason in missing.items():
            measures[name] = {"failure": reason}
        done.append(measures)
    return done


def _prepare(peers: Sequence[str] | None) -> tuple[list[Server], dict[str, str]]:
    """The servers that can be started, and why the others cannot."""
    wanted = [server for server in SERVERS if server.name == "ours" or not peers or server.name in peers]
    for environment in ("plot", "plain"):
        install(environment)
    missing: dict[str, str] = {}
    for server in wanted:
        try:
            if server.environment:
                install(server.environment)
            if "{onnx}" in server.command or server.directory == ONNX:
                _export()
        except InstallError as error:
            missing[server.name] = f"could not be installed: {error}"
            say(f"{server.title}: {missing[server.name]}")
    return [server for server in wanted if server.name not in missing], missing


def _export() -> None:
    """The ordinary ONNX export that some peers want, once.

    Raises:
        InstallError: it failed.
    """
    if (ONNX / "exported").is_file():
        return
    install("infinity")
    say("exporting the model to an ordinary ONNX file, for peers that want one (once) ...")
    command = [str(python("infinity")), str(HERE / "peers" / "export_onnx.py"), str(model_files()), str(ONNX)]
    done = subprocess.run(command, env=offline(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(f"the export failed: {done.stderr.strip()[-400:]}")
    (ONNX / "exported").touch()


def _loads(only: Sequence[str] | None) -> list[Load]:
    wanted = set(only or [load.name for load in LOADS])
    if wanted & NEEDS_SINGLES:
        wanted.add("singles")
    return [load for load in LOADS if load.name in wanted]


def _names(known: Sequence[str]) -> "type[Sequence[str]]":
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return names

    return read  # type: ignore[return-value]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run", description="Compare with peers and the engine alone."
    )
    loads, peers = [load.name for load in LOADS], [server.name for server in SERVERS[1:]]
    parser.add_argument("--rounds", type=int, help=f"every server once a round (default {FULL_ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"of one load (default {FULL_SECONDS:g})")
    parser.add_argument("--only", type=_names(loads), metavar="LOAD,...", help=f"of {', '.join(loads)}")
    parser.add_argument("--peers", type=_names(peers), metavar="PEER,...", help=f"of {', '.join(peers)}")
    parser.add_argument(
        "--soak",
        type=float,
        metavar="SECONDS",
        help=f"mixed load, for memory (full run: {FULL_SOAK:g}, else off)",
    )
    parser.add_argument("--quick", action="store_true", help="one round of 3 s a load: a try, not a result")
    parser.add_argument(
        "--output", type=Path, help="directory of the results (full run: docs, else benchmarks/.work)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
