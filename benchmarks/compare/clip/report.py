"""From the measures of all CLIP rounds to a table, and into docs/benchmarks.md."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.clip.contestants import INFINITY, OURS
from benchmarks.compare.clip.rounds import Measures
from benchmarks.compare.clip.targets import FIGURES, LOADS, STRAINS
from benchmarks.compare.report import (
    Summary,
    extent,
    figure_table,
    heading,
    in_process_table,
    judged,
    replace_between,
    spread,
    void,
)

BEGIN, END = "<!-- CLIP results: written by benchmarks/run clip -->", "<!-- end of CLIP results -->"


def summary(rounds: Sequence[Measures], machine: dict[str, Any], settings: dict[str, Any]) -> Summary:
    """Everything that is shown, and the rounds themselves."""
    return {
        "machine": machine,
        "settings": settings,
        "figures": [judged(figure, rounds, (*LOADS, *STRAINS)) for figure in FIGURES],
        "servers": [_server(server.name, server.title, rounds) for server in (OURS, INFINITY)],
        "in_process": _in_process(rounds),
        "rounds": list(rounds),
    }


def _server(name: str, title: str, rounds: Sequence[Measures]) -> dict[str, Any]:
    measured = [measures for measures in rounds if name in measures]
    loads = {}
    for load in LOADS:
        key = "p50" if load.connections == 1 else "texts_per_second"
        voids = [reason for measures in measured if (reason := void(measures, name, load.name))]
        values = spread(measured, lambda m, of=load.name, key=key: m[name][of][key])  # type: ignore[misc]
        loads[load.name] = {"value": values, "void": voids}
    cosines = {
        kind: spread(measured, lambda m, of=kind: m[name]["agreement"][of]["least_cosine"])  # type: ignore[misc]
        for kind in ("text", "image")
    }
    return {"name": name, "title": title, "loads": loads, "least_cosine": cosines}


def _in_process(rounds: Sequence[Measures]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "engine that serves": ", ".join(sorted({str(m["engine"]["images"]["chosen"]) for m in rounds})),
        "open_clip, images, decoding included": spread(rounds, lambda m: m["open_clip"]["images"]["best"]),
        "open_clip, images, decoded already": spread(
            rounds, lambda m: m["open_clip"]["images"]["tower alone"]
        ),
    }
    for engine in rounds[0]["engine"]["images"]["engines"]:
        for title, key in (("decoding included", "best"), ("decoded already", "tower alone")):
            shown[f"{engine}, images, {title}"] = spread(
                rounds, lambda m, of=engine, key=key: m["engine"]["images"]["engines"][of][key]  # type: ignore[misc]
            )  # fmt: skip
    return {
        **shown,
        "open_clip, captions": spread(rounds, lambda m: m["open_clip"]["captions"]["rate"]),
        "fixed 77 tokens on ONNX Runtime, captions": spread(rounds, lambda m: m["fixed77"]["texts"]["best"]),
    }


def markdown(result: Summary) -> str:
    """The tables, as they are printed and put into the page."""
    return "\n\n".join((heading(result), figure_table(result), _servers(result), in_process_table(result)))


def _servers(result: Summary) -> str:
    heads = [load.title for load in LOADS]
    rows = [
        "Captions or images a second, as median (min to max); for one connection p50 in ms.",
        "",
        f"| server | {' | '.join(heads)} | least cosine, captions | images |",
        "| --- |" + " --- |" * (len(heads) + 2),
    ]
    voids: list[str] = []
    for server in result["servers"]:
        cells = []
        for load in server["loads"].values():
            voids += load["void"]
            cells.append("void" if load["void"] else extent(load["value"]) if load["value"] else "")
        least = server["least_cosine"].values()
        cells += [f"{cosine['min']:.6f}" if cosine else "" for cosine in least]
        rows.append(f"| {server['title']} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(f"- void: {reason}" for reason in dict.fromkeys(voids))]).rstrip()


def write(result: Summary, directory: Path) -> None:
    """`benchmarks-clip.json`, and the tables between the markers of `benchmarks.md`."""
    directory.mkdir(parents=True, exist_ok=True)
    data, page = directory / "benchmarks-clip.json", directory / "benchmarks.md"
    data.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    replace_between(page, BEGIN, END, markdown(result))
    print(f"written: {data}, {page}", file=sys.stderr)
