"""The CLIP benchmarks by one command: `benchmarks/run clip`.

Makes the model, installs infinity-emb, measures in rounds, writes a table and JSON. Progress goes to stderr,
the table to stdout.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare.clip import report
from benchmarks.compare.clip.contestants import DIRECTORY, INFINITY, OURS
from benchmarks.compare.clip.rounds import run_round
from benchmarks.compare.environments import ROOT, WORK, InstallError, install, offline, python
from benchmarks.compare.machine import describe_machine
from benchmarks.compare.rounds import InProcessFailed, say

QUICK_SECONDS, FULL_SECONDS = 3.0, 10.0
FULL_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything was measured, whether or not the figures hold."""
    options = _parser().parse_args(arguments)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    output = options.output or (WORK / "results" if options.quick else ROOT / "docs")
    WORK.mkdir(exist_ok=True)
    busy = os.getloadavg()[0]
    try:
        _make_model()
        missing = None if options.no_infinity else _missing()
        servers = [OURS] if options.no_infinity or missing else [OURS, INFINITY]
        measures = [run_round(servers, number, seconds) for number in range(1, rounds + 1)]
    except InProcessFailed as error:
        print(error, file=sys.stderr)
        return 1
    if missing:
        for measured in measures:
            measured[INFINITY.name] = {"failure": missing}
    settings = {"rounds": rounds, "seconds_per_load": seconds}
    result = report.summary(measures, {**describe_machine(servers), "load_average_at_start": busy}, settings)
    print(report.markdown(result))
    report.write(result, output)
    return 0


def _make_model() -> None:
    """The checkpoint and its other forms, once."""
    made = DIRECTORY / "made"
    if made.is_file():
        return
    say("making ViT-B-32 with random weights, for transformers and with fixed 77 tokens too (once) ...")
    command = [str(python("")), "-m", "benchmarks.compare.clip.model", str(DIRECTORY)]
    done = subprocess.run(command, cwd=ROOT, env=offline(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InProcessFailed(done.stderr.strip()[-600:])
    made.touch()


def _missing() -> str | None:
    """Why infinity-emb cannot be started; None where it can."""
    try:
        install(INFINITY.environment)
    except InstallError as error:
        say(f"{INFINITY.title}: could not be installed: {error}")
        return f"could not be installed: {error}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run clip", description="CLIP: compare with infinity-emb and the towers alone."
    )
    parser.add_argument("--rounds", type=int, help=f"all contestants once a round (default {FULL_ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"of one load (default {FULL_SECONDS:g})")
    parser.add_argument("--no-infinity", action="store_true", help="leave infinity-emb out")
    parser.add_argument("--quick", action="store_true", help="one round of 3 s a load: a try, not a result")
    parser.add_argument(
        "--output", type=Path, help="directory of the results (default docs; quick: benchmarks/.work/results)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
