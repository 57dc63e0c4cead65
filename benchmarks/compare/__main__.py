"""The comparison of text models by one command: `benchmarks/run`.

The command installs the peers, measures in rounds, and writes tables, a picture and JSON. Progress goes to
standard error, the tables to standard output.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.compare import command
from benchmarks.compare.environments import in_process, say
from benchmarks.compare.rounds import run_server, version_directory
from benchmarks.compare.servers import OURS, SERVERS, Running, Server
from benchmarks.compare.soak import soak
from benchmarks.compare.targets import LOADS, TEXTS, Load, Round
from benchmarks.loadtest.settings import DEFAULT_MODEL
from triton_models.contract.names import triton_name_of

NEEDS_SINGLES = {"open", "repeated"}
FULL_SOAK = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = command.parser("benchmarks/run", "Compare with peers and the engine alone.")
    loads, peers = [load.name for load in LOADS], [server.name for server in SERVERS[1:]]
    parser.add_argument("--only", type=_names(loads), metavar="LOAD,...", help=f"of {', '.join(loads)}")
    parser.add_argument("--peers", type=_names(peers), metavar="PEER,...", help=f"of {', '.join(peers)}")
    options = parser.parse_args(arguments)
    full = not (options.quick or options.only or options.peers)
    wanted = [OURS.name, *(options.peers or peers)]
    servers = [server for server in SERVERS if server.name in wanted]
    soak_seconds = FULL_SOAK * full
    run_round = partial(_run_round, _loads(options.only), soak_seconds)
    return command.run(TEXTS, options, servers, run_round, full=full, soak_seconds=soak_seconds)


def _run_round(
    loads: Sequence[Load], soak_seconds: float, servers: Sequence[Server], number: int, seconds: float
) -> Round:
    """Measure the original library, every server, and the engine alone."""
    say(f"round {number}: SentenceTransformer.encode in process")
    module = "benchmarks.compare.in_process"
    encode = in_process(module, "encode", str(number), str(seconds))
    measures: Round = {
        "encode": {
            "bulk": {"texts_per_second": encode["glosses"]},
            "latency": {"p50": encode["single_ms"]},
        }
    }

    def mixed(up: Running) -> dict[str, Any]:
        if not soak_seconds or number > 1 or up.server.name != OURS.name:
            return {}
        say(f"  mixed load for {soak_seconds:.0f} s")
        return {"soak": soak(up, soak_seconds)}

    for server in servers:
        measures[server.name] = run_server(TEXTS, server, loads, number, seconds, mixed)
        if server.name != OURS.name or "failure" in measures[server.name]:
            continue
        say(f"round {number}: the engine in process, no server")
        version = version_directory(OURS.repository, triton_name_of(DEFAULT_MODEL))
        alone = in_process(module, "engine", str(number), str(max(1.0, seconds / 3)), version)
        say(f"  glosses {alone['glosses']['best']:,.0f}/s, passages {alone['passages']['best']:,.0f}/s")
        measures["ceiling"] = alone
    return measures


def _loads(only: Sequence[str] | None) -> list[Load]:
    wanted = set(only or [load.name for load in LOADS])
    if wanted & NEEDS_SINGLES:
        wanted.add("singles")
    return [load for load in LOADS if load.name in wanted]


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
