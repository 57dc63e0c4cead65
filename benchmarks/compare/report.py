"""From the measures of all rounds to figures, a table, a page and files."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare.environments import HERE, python
from benchmarks.compare.servers import SERVERS
from benchmarks.compare.targets import FIGURES, LOADS, Figure, Load, Round

BEGIN, END = "<!-- results: written by benchmarks/run -->", "<!-- end of results -->"

Summary = dict[str, Any]


def summary(rounds: Sequence[Round], machine: dict[str, Any], settings: dict[str, Any]) -> Summary:
    """Everything that is shown, and the rounds themselves."""
    for measures in rounds:
        measures["machine"] = {"cpu": machine["cpu"]}
    return {
        "machine": machine,
        "settings": settings,
        "figures": [judged(figure, rounds, LOADS) for figure in FIGURES],
        "servers": [
            _server(server.name, server.title, rounds) for server in SERVERS if server.name in rounds[0]
        ],
        "in_process": _in_process(rounds),
        "rounds": [
            {name: value for name, value in measures.items() if name != "machine"} for measures in rounds
        ],
    }


def spread(rounds: Sequence[Round], value: Callable[[Round], Any]) -> dict[str, float] | None:
    """Median, least and greatest over the rounds that have the value."""
    found = []
    for measures in rounds:
        try:
            number = value(measures)
        except (KeyError, TypeError):
            continue
        if number is not None:
            found.append(float(number))
    if not found:
        return None
    return {"median": median(found), "min": min(found), "max": max(found), "rounds": len(found)}


def judged(figure: Figure, rounds: Sequence[Round], of: Sequence[Load]) -> dict[str, Any]:
    """One figure that must hold, over all rounds."""
    loads = {load.name: load.title for load in of}
    values = spread(rounds, figure.value)
    # A void load in any round voids the figure: a median of the rest would hide it.
    failures = {void(measures, who, figure.load) for measures in rounds for who in figure.servers}
    reasons = sorted(failure for failure in failures if failure)
    return {
        "load": figure.load,
        "load_title": loads.get(figure.load, "mixed load for long"),
        "title": figure.title,
        "limit": figure.limit,
        "aim": figure.aim,
        "at_least": figure.at_least,
        "unit": figure.unit,
        "value": None if reasons else values,
        "void": reasons,
        "holds": bool(values) and not reasons and figure.holds(values["median"]) if values else None,
    }


def void(measures: Round, who: str, load: str) -> str | None:
    """Why a load counts for nothing; a fast answer that is wrong counts for nothing either."""
    measured = measures.get(who, {})
    if "failure" in measured:
        return f"{who} did not run: {_short([str(measured['failure'])])}"
    if "failure" in measured.get(load, {}):
        return f"{who}: {_short([measured[load]['failure']])}"
    if load in measured and not measured["agreement"]["agrees"]:
        return f"{who}: its vectors disagree, cosine {measured['agreement']['least_cosine']:.4f}"
    return None


def _server(name: str, title: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """One line of the table of servers."""
    failures = [str(measures[name]["failure"]) for measures in rounds if "failure" in measures[name]]
    loads = {}
    for load in LOADS:
        voids = [void(measures, name, load.name) for measures in rounds]
        loads[load.name] = {
            "texts_per_second": spread(rounds, lambda m, key=load.name: m[name][key]["texts_per_second"]),  # type: ignore[misc]
            "p50": spread(rounds, lambda m, key=load.name: m[name][key]["p50"]),  # type: ignore[misc]
            "p99": spread(rounds, lambda m, key=load.name: m[name][key]["p99"]),  # type: ignore[misc]
            "void": [void for void in voids if void],
        }
    cosine = spread(rounds, lambda measures: measures[name]["agreement"]["least_cosine"])
    return {"name": name, "title": title, "loads": loads, "least_cosine": cosine, "failures": failures}


def _in_process(rounds: Sequence[Round]) -> dict[str, Any]:
    """The engine and the reference with no server around them."""
    engines = sorted({str(measures["ceiling"]["engine"]) for measures in rounds if "ceiling" in measures})
    return {
        "chosen engine": ", ".join(engines) or None,
        "engine, glosses": spread(rounds, lambda m: m["ceiling"]["glosses"]["best"]),
        "engine, passages": spread(rounds, lambda m: m["ceiling"]["passages"]["best"]),
        "engine, one gloss, ms": spread(rounds, lambda m: m["ceiling"]["single"]["ms"]),
        "SentenceTransformer.encode, glosses": spread(
            rounds, lambda m: m["encode"]["bulk"]["texts_per_second"]
        ),
        "SentenceTransformer.encode, one gloss, ms": spread(rounds, lambda m: m["encode"]["latency"]["p50"]),
    }


def markdown(result: Summary) -> str:
    """The tables, as they are printed and put into the page."""
    parts = (heading(result), figure_table(result), _servers(result), in_process_table(result))
    return "\n\n".join(parts)


def heading(result: Summary) -> str:
    """When, where and with which versions it was measured."""
    machine, settings = result["machine"], result["settings"]
    cpu, versions = machine["cpu"], machine["versions"]
    others = machine["load_average_at_start"]
    lines = [
        f"{machine['date']}, commit `{machine['commit']}`. {cpu['model']}, {cpu['cores']} cores"
        f"{' with bf16' if cpu['bf16'] else ''}, {machine['memory_gib']} GiB, "
        f"{machine['gpu'] or 'no GPU'}, Linux {machine['kernel']}, Python {machine['python']}. "
        f"Medians of {settings['rounds']} round(s), {settings['seconds_per_load']:g} s a load."
        + (
            f" **The machine was not idle**: load average {others:.1f} before the start."
            if others > 0.7
            else ""
        ),
    ]
    for environment, found in versions.items():
        lines.append(f"- {environment}: " + ", ".join(f"{name} {number}" for name, number in found.items()))
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def figure_table(result: Summary) -> str:
    """The figures that must hold."""
    rows = ["| load | figure | must be | median | min to max | |", "| --- | --- | --- | --- | --- | --- |"]
    for figure in result["figures"]:
        unit, value = figure["unit"], figure["value"]
        sign = "at least" if figure["at_least"] else "at most"
        aim = f" (aim {figure['aim']:g}{unit})" if figure["aim"] else ""
        shown = "void: " + "; ".join(figure["void"]) if figure["void"] else "not measured"
        across, verdict = "", ""
        if value:
            shown, across = (
                number(value["median"], unit),
                f"{number(value['min'])} to {number(value['max'])}",
            )
            verdict = "holds" if figure["holds"] else "**not reached**"
        limit = f"{sign} {figure['limit']:g}{unit}{aim}"
        rows.append(
            f"| {figure['load_title']} | {figure['title']} | {limit} | {shown} | {across} | {verdict} |"
        )
    return "\n".join(rows)


def _servers(result: Summary) -> str:
    """Texts a second; for a single connection and the open loop, latencies."""
    heads = [load.title for load in LOADS]
    voids: list[str] = []
    rows = [
        "Texts a second, as median (min to max); for one connection p50, for the open loop p50 / p99, in ms.",
        "",
        f"| server | {' | '.join(heads)} | least cosine |",
        "| --- |" + " --- |" * (len(heads) + 1),
    ]
    for server in result["servers"]:
        cells = [_cell(load.name, server["loads"][load.name]) for load in LOADS]
        cosine = server["least_cosine"]
        rows.append(
            f"| {server['title']} | {' | '.join(cells)} | {cosine['min']:.6f} |"
            if cosine
            else f"| {server['title']} | {' | '.join(cells)} | |"
        )
        voids += [void for load in LOADS for void in server["loads"][load.name]["void"]]
    return "\n".join([*rows, "", *(f"- void: {void}" for void in dict.fromkeys(voids))]).rstrip()


def _cell(load: str, measured: dict[str, Any]) -> str:
    if measured["void"]:
        return "void"
    if measured["texts_per_second"] is None:
        return ""
    if load == "latency":
        return extent(measured["p50"])
    if load == "open":
        return f"{number(measured['p50']['median'])} / {number(measured['p99']['median'])}"
    return extent(measured["texts_per_second"])


def in_process_table(result: Summary) -> str:
    """What was measured with no server."""
    rows = ["| in process, no server | median (min to max) |", "| --- | --- |"]
    for name, values in result["in_process"].items():
        if values:
            rows.append(f"| {name} | {values if isinstance(values, str) else extent(values)} |")
    return "\n".join(rows)


def extent(values: dict[str, float]) -> str:
    """Median, least and greatest."""
    if values["rounds"] == 1:
        return number(values["median"])
    return f"{number(values['median'])} ({number(values['min'])} to {number(values['max'])})"


def number(value: float, unit: str = "") -> str:
    """With about three digits."""
    digits = 0 if abs(value) >= 100 else 2 if abs(value) < 10 else 1
    return f"{value:,.{digits}f}{unit}"


def _short(texts: Iterable[str]) -> str:
    return " ".join("; ".join(dict.fromkeys(texts)).split())[-200:].replace("|", "/")


def write(result: Summary, directory: Path) -> None:
    """`benchmarks.json`, `benchmarks.png`, and the tables between the markers of `benchmarks.md`."""
    directory.mkdir(parents=True, exist_ok=True)
    data, picture, page = (directory / f"benchmarks.{end}" for end in ("json", "png", "md"))
    data.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    subprocess.run([str(python("plot")), str(HERE / "plot.py"), str(data), str(picture)], check=True)
    replace_between(page, BEGIN, END, f"![results]({picture.name})\n\n{markdown(result)}")
    print(f"written: {data}, {picture}, {page}", file=sys.stderr)


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put the text between two markers of a page; they are added where they are missing."""
    whole = page.read_text(encoding="utf-8") if page.is_file() else "# Benchmarks\n"
    if begin not in whole:
        whole = f"{whole}\n{begin}\n{end}\n"
    before, _, rest = whole.partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
