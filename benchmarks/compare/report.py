"""The report of a comparison: figures, tables, a picture and files made from the measures of all rounds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare.environments import say
from benchmarks.compare.targets import Comparison, Figure, Load, Round, Value
from benchmarks.loadtest import plot

Summary = dict[str, Any]


def summary(
    comparison: Comparison, rounds: Sequence[Round], machine: dict[str, Any], settings: dict[str, Any]
) -> Summary:
    """Collect everything that the report shows, and the rounds themselves."""
    with_machine = [{**measures, "machine": {"cpu": machine["cpu"]}} for measures in rounds]
    return {
        "machine": machine,
        "settings": settings,
        "figures": [_judged(comparison, figure, with_machine) for figure in comparison.figures],
        "servers": [
            _server(comparison, server.name, server.title, rounds)
            for server in comparison.servers
            if server.name in rounds[0]
        ],
        "in_process": {
            title: spread(rounds, value) for title, value in comparison.in_process(rounds).items()
        },
        "rounds": list(rounds),
    }


def spread(rounds: Sequence[Round], value: Value) -> dict[str, float] | str | None:
    """Return median, minimum and maximum over the rounds that have the value; names are joined."""
    found = []
    for measures in rounds:
        try:
            seen = value(measures)
        except (KeyError, TypeError):
            continue
        if seen is not None:
            found.append(seen)
    if not found:
        return None
    if isinstance(found[0], str):
        return ", ".join(sorted(set(found)))
    return {"median": median(found), "min": min(found), "max": max(found), "rounds": len(found)}


def medians(found: Mapping[str, Sequence[float]], digits: int) -> str:
    """Return a table in Markdown of the median and the range of each row's figures."""
    rows = ["| | median | least to greatest |", "| --- | --- | --- |"]
    for label, figures in found.items():
        shown = [f"{figure:,.{digits}f}" for figure in (median(figures), min(figures), max(figures))]
        rows.append(f"| {label} | {shown[0]} | {shown[1]} to {shown[2]} |")
    return "\n".join(rows)


def _judged(comparison: Comparison, figure: Figure, rounds: Sequence[Round]) -> dict[str, Any]:
    """Judge one figure over all rounds."""
    titles = {**comparison.titles, **{load.name: load.title for load in comparison.loads}}
    values = spread(rounds, figure.value)
    # A void load in any round voids the figure, as a median of the rest would hide it.
    failures = {_void(measures, who, figure.load) for measures in rounds for who in figure.servers}
    reasons = sorted(failure for failure in failures if failure)
    return {
        "load": figure.load,
        "load_title": titles[figure.load],
        "title": figure.title,
        "limit": figure.limit,
        "aim": figure.aim,
        "at_least": figure.at_least,
        "unit": figure.unit,
        "value": None if reasons else values,
        "void": reasons,
        "holds": not reasons and figure.holds(values["median"]) if isinstance(values, dict) else None,
    }


def _void(measures: Round, who: str, load: str) -> str | None:
    """Return why a load is void, or None; a fast server with wrong vectors is void too."""
    measured = measures.get(who, {})
    if "failure" in measured:
        return f"{who} did not run: {_short(measured['failure'])}"
    if "failure" in measured.get(load, {}):
        return f"{who}: {_short(measured[load]['failure'])}"
    if load in measured and not measured["agreement"]["agrees"]:
        return f"{who}: its vectors disagree, cosine {measured['agreement']['least_cosine']:.4f}"
    return None


def _server(comparison: Comparison, name: str, title: str, rounds: Sequence[Round]) -> dict[str, Any]:
    loads: dict[str, Any] = {}
    for load in comparison.loads:
        voids = [_void(measures, name, load.name) for measures in rounds]
        loads[load.name] = {
            measure: spread(rounds, lambda m, of=load.name, key=measure: m[name][of][key])  # type: ignore[misc]
            for measure in ("texts_per_second", "p50", "p99")
        } | {"void": [reason for reason in voids if reason]}
    cosines = {
        column: spread(rounds, lambda m, of=column: m[name]["agreement"][of]["least_cosine"])  # type: ignore[misc]
        for column in comparison.samples
    }
    return {"name": name, "title": title, "loads": loads, "least_cosine": cosines}


def markdown(comparison: Comparison, result: Summary) -> str:
    """Return the tables as Markdown, for the terminal and the page."""
    parts = (_heading(result), _figures(result), _servers(comparison, result), _in_process(result))
    return "\n\n".join(parts)


def _heading(result: Summary) -> str:
    machine, settings = result["machine"], result["settings"]
    cpu, busy = machine["cpu"], machine["load_average_at_start"]
    warning = f" **The machine was not idle**: load average {busy:.1f} before the start." * (busy > 0.7)
    line = (
        f"{machine['date']}, commit `{machine['commit']}`. {cpu['model']}, {cpu['cores']} cores"
        f"{' with' if cpu['bf16'] else ' without'} bf16, {machine['memory_gib']} GiB, "
        f"{machine['gpu'] or 'no GPU'}, Linux {machine['kernel']}, Python {machine['python']}. "
        f"Medians of {settings['rounds']} round(s), {settings['seconds_per_load']:g} s a load.{warning}"
    )
    versions = (
        f"- {environment}: " + ", ".join(f"{name} {number}" for name, number in found.items())
        for environment, found in machine["versions"].items()
    )
    return line + "\n\n" + "\n".join(versions)


def _figures(result: Summary) -> str:
    rows = ["| load | figure | must be | median | min to max | |", "| --- | --- | --- | --- | --- | --- |"]
    for figure in result["figures"]:
        unit, value = figure["unit"], figure["value"]
        sign = "at least" if figure["at_least"] else "at most"
        aim = f" (aim {figure['aim']:g}{unit})" if figure["aim"] else ""
        shown = "void: " + "; ".join(figure["void"]) if figure["void"] else "not measured"
        across, verdict = "", ""
        if value:
            shown = _number(value["median"], unit)
            across = f"{_number(value['min'])} to {_number(value['max'])}"
            verdict = "holds" if figure["holds"] else "**not reached**"
        limit = f"{sign} {figure['limit']:g}{unit}{aim}"
        rows.append(
            f"| {figure['load_title']} | {figure['title']} | {limit} | {shown} | {across} | {verdict} |"
        )
    return "\n".join(rows)


def _servers(comparison: Comparison, result: Summary) -> str:
    """Return a row for each server: inputs per second, or latencies for one connection and the open loop."""
    heads = [*(load.title for load in comparison.loads), *comparison.samples]
    opened = any(load.open_loop for load in comparison.loads)
    latencies = "p50, for the open loop p50 / p99, in ms." if opened else "p50 in ms."
    rows = [
        f"{comparison.unit} a second, as median (min to max); for one connection {latencies}",
        "",
        f"| server | {' | '.join(heads)} |",
        "| --- |" + " --- |" * len(heads),
    ]
    voids: list[str] = []
    for server in result["servers"]:
        cells = [_cell(load, server["loads"][load.name]) for load in comparison.loads]
        cells += [f"{cosine['min']:.6f}" if cosine else "" for cosine in server["least_cosine"].values()]
        rows.append(f"| {server['title']} | {' | '.join(cells)} |")
        voids += [reason for load in comparison.loads for reason in server["loads"][load.name]["void"]]
    return "\n".join([*rows, "", *(f"- void: {reason}" for reason in dict.fromkeys(voids))]).rstrip()


def _cell(load: Load, measured: dict[str, Any]) -> str:
    if measured["void"]:
        return "void"
    if measured["texts_per_second"] is None:
        return ""
    if load.open_loop:
        return f"{_number(measured['p50']['median'])} / {_number(measured['p99']['median'])}"
    return _extent(measured["p50" if load.connections == 1 else "texts_per_second"])


def _in_process(result: Summary) -> str:
    rows = ["| in process, no server | median (min to max) |", "| --- | --- |"]
    rows += [f"| {name} | {_extent(values)} |" for name, values in result["in_process"].items() if values]
    return "\n".join(rows)


def _extent(values: dict[str, float] | str) -> str:
    """Format median, minimum and maximum; a name stays as it is."""
    if isinstance(values, str):
        return values
    if values["rounds"] == 1:
        return _number(values["median"])
    return f"{_number(values['median'])} ({_number(values['min'])} to {_number(values['max'])})"


def _number(value: float, unit: str = "") -> str:
    """Format a number with about three digits."""
    digits = 0 if abs(value) >= 100 else 2 if abs(value) < 10 else 1
    return f"{value:,.{digits}f}{unit}"


def _short(text: str) -> str:
    return " ".join(text.split())[-200:].replace("|", "/")


def write(comparison: Comparison, result: Summary, data_directory: Path, page_directory: Path) -> None:
    """Write the JSON, the picture, and the tables between the markers of `comparison.md`.

    Each kind of CPU has its own: those with bfloat16, and those without it, which compute in fp32.
    """
    for directory in (data_directory, page_directory):
        directory.mkdir(parents=True, exist_ok=True)
    bf16 = result["machine"]["cpu"]["bf16"]
    suffix = "" if bf16 else "-without-bf16"
    data, page = data_directory / f"{comparison.file}{suffix}.json", page_directory / "comparison.md"
    data.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    tables = markdown(comparison, result)
    if comparison.panels:
        picture = page_directory / f"results{suffix}.png"
        draw(comparison, result, picture)
        tables = f"![results]({picture.name})\n\n{tables}"
    kind = "with bf16" if bf16 else "without bf16"
    begin, end = (marker.format(cpu=kind) for marker in comparison.markers)
    whole = page.read_text(encoding="utf-8") if page.is_file() else "# Comparison\n"
    if begin not in whole:
        whole = f"{whole}\n{begin}\n{end}\n"
    before, _, rest = whole.partition(begin)
    page.write_text(f"{before}{begin}\n{tables}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
    say(f"written: {data}, {page}")


def draw(comparison: Comparison, result: Summary, picture: Path) -> None:
    """Draw a panel for each load, with a dashed line for the engine in process, without a server."""
    machine = result["machine"]
    cpu = machine["cpu"]
    place = f"{cpu['model']}, {cpu['cores']} cores {'with' if cpu['bf16'] else 'without'} bf16"
    title = f"all-MiniLM-L6-v2 on {place}, {machine['date'][:10]}"
    figure, panels = plot.canvas(3, 2, (12, 9.5), title)
    for axes, (load, name, unit, row) in zip(panels, comparison.panels, strict=True):
        bars: list[plot.Bar] = []
        for server in reversed(result["servers"]):
            measured = server["loads"][load]
            values = measured["texts_per_second" if unit == "texts/s" else "p50"]
            if values:
                top = measured["p99"]["median"] if load == "open" else values["max"]
                ours = server["name"].startswith("ours")
                bars.append((server["title"], values["median"], values["min"], top, ours))
        line = result["in_process"].get(row) if row else None
        plot.bars(axes, name, unit, bars, line and line["median"])
    figure.savefig(picture, dpi=130)
