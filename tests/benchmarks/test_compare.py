"""The comparison without servers: inputs, figures, tables, the picture and the command lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.compare import __main__ as text_command
from benchmarks.compare import report
from benchmarks.compare.clip import __main__ as clip_command
from benchmarks.compare.clip.targets import CLIP
from benchmarks.compare.inputs import Inputs, grouped, sample
from benchmarks.compare.targets import TEXTS, Round

MACHINE: dict[str, Any] = {
    "date": "2026-01-02 03:04 UTC",
    "commit": "abc",
    "cpu": {"model": "A CPU", "cores": 4, "bf16": True},
    "memory_gib": 8.0,
    "gpu": None,
    "kernel": "6.1",
    "python": "3.11.7",
    "versions": {"ours": {"numpy": "1.26.4"}},
    "load_average_at_start": 1.5,
}
SETTINGS = {"rounds": 2, "seconds_per_load": 3.0}


def load(rate: float) -> dict[str, Any]:
    return {"texts_per_second": rate, "p50": 4.0, "p99": 9.0, "front_end_cpu_ms": 0.3}


def measures(rate: float) -> Round:
    agreement = {"least_cosine": 0.9999, "agrees": True, "least cosine": {"least_cosine": 0.9999}}
    ours = {"agreement": agreement, **{one.name: load(rate) for one in TEXTS.loads}}
    return {
        "encode": {"bulk": {"texts_per_second": rate / 5}, "latency": {"p50": 8.0}},
        "ours": ours,
        "ceiling": {
            "engine": "e",
            "single_ms": 3.5,
            "glosses": {"best": rate / 0.9},
            "passages": {"best": 9.0},
        },
        "infinity": {"failure": "could not be\ninstalled | really"},
    }


def figure(result: report.Summary, load: str, title: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in result["figures"] if (one["load"], one["title"]) == (load, title)
    )
    return found


def test_figures_and_tables() -> None:
    result = report.summary(TEXTS, [measures(1000.0), measures(2000.0)], MACHINE, SETTINGS)
    rate = figure(result, "repeated", "requests/s per 2 cores")
    assert (rate["value"]["median"], rate["holds"]) == (750.0, False)
    assert figure(result, "bulk", "over SentenceTransformer.encode")["holds"]
    assert figure(result, "soak", "memory at the end over that after a minute")["holds"] is None
    void = figure(result, "singles", "over infinity-emb torch")
    assert (void["value"], void["holds"]) == (None, None)
    assert void["void"] == ["infinity did not run: could not be installed / really"]
    page = report.markdown(TEXTS, result)
    assert "A CPU, 4 cores with bf16, 8.0 GiB, no GPU, Linux 6.1, Python 3.11.7." in page
    assert "**The machine was not idle**: load average 1.5" in page
    row = "| this server | 1,500 (1,000 to 2,000) | 1,500 (1,000 to 2,000) | 1,500 (1,000 to 2,000) "
    assert f"{row}| 4.00 (4.00 to 4.00) | 4.00 / 9.00 | 1,500 (1,000 to 2,000) | 0.999900 |" in page
    assert "| infinity-emb, torch | void |" in page
    assert "| mixed load for long | memory at the end over that after a minute | at most 1.05x |" in page
    assert "| chosen engine | e |" in page


@pytest.mark.parametrize("reason", ["failure", "disagrees"])
def test_a_void_load_of_one_round_voids_its_figure(reason: str) -> None:
    rounds = [measures(1000.0), measures(1000.0)]
    if reason == "failure":
        rounds[1]["ours"]["bulk"] = {"texts_per_second": None, "failure": "HTTP 503"}
    else:
        rounds[1]["ours"]["agreement"] |= {"agrees": False, "least_cosine": 0.5}
    result = report.summary(TEXTS, rounds, MACHINE, SETTINGS)
    assert figure(result, "bulk", "over SentenceTransformer.encode")["holds"] is False
    assert "- void: ours: " in report.markdown(TEXTS, result)


@pytest.mark.parametrize(("bf16", "suffix"), [(True, ""), (False, "-without-bf16")])
def test_results_are_written_between_the_markers_of_the_cpu(tmp_path: Path, bf16: bool, suffix: str) -> None:
    page = tmp_path / "docs" / "comparison.md"
    page.parent.mkdir()
    begin, end = (marker.format(cpu="with bf16" if bf16 else "without bf16") for marker in TEXTS.markers)
    other = TEXTS.markers[0].format(cpu="without bf16" if bf16 else "with bf16")
    page.write_text(f"before\n{other}\nkept\n{begin}\nformer tables\n{end}\nafter\n")
    machine = {**MACHINE, "cpu": {**MACHINE["cpu"], "bf16": bf16}}
    result = report.summary(TEXTS, [measures(1000.0)], machine, SETTINGS)
    report.write(TEXTS, result, tmp_path / "results", page.parent)
    written = page.read_text()
    assert written.startswith(f"before\n{other}\nkept\n{begin}\n![results](results{suffix}.png)\n")
    assert written.endswith(f"{end}\nafter\n")
    assert "former tables" not in written
    assert json.loads((tmp_path / "results" / f"benchmarks{suffix}.json").read_text()) == result
    with Image.open(tmp_path / "docs" / f"results{suffix}.png") as picture:
        assert picture.width > 1000
    assert "machine" not in result["rounds"][0]


def test_clip_figures() -> None:
    images = {"best": 10.0, "tower alone": 11.0}
    agreement = {name: {"least_cosine": 0.9} for name in CLIP.samples} | {"least_cosine": 0.9, "agrees": True}
    measured: Round = {
        "open_clip": {"images": images, "captions": {"rate": 30.0}},
        "fixed77": {"texts": {"best": 50.0}},
        "engine": {"images": {"chosen": "a", "best": 20.0, "engines": {"a": images, "b": {"refused": "x"}}}},
        "ours": {
            "agreement": agreement,
            **{one.name: load(200.0) for one in CLIP.loads},
            "wire": {"bytes": 1},
            "stall": {"failure": "HTTP 500"},
            "memory": {"above_idle_mb": 7.0},
        },
    }
    result = report.summary(CLIP, [measured], MACHINE, SETTINGS)
    assert [one["holds"] for one in result["figures"]] == [True, True, True, True, None, True]
    page = report.markdown(CLIP, result)
    assert "| server | 64 connections, one caption |" in page
    assert "| this server | 200 | 200 | 200 | 4.00 | 0.900000 | 0.900000 |" in page
    assert "| a, images, decoding included | 10.0 |" in page
    assert "b, images" not in page
    assert "Captions or images a second, as median (min to max); for one connection p50 in ms." in page


def test_inputs_are_new_and_the_same_for_all() -> None:
    def first(seed: int) -> list[str]:
        inputs = Inputs(seed)
        kinds = ("definitions", "passages", "captions", "definitions", "images")
        return [one for kind in kinds for one in inputs.take(kind, 30)]

    assert first(1) == first(1)
    assert len(set(first(1))) == 150
    assert not set(first(1)) & set(first(2))
    assert len(sample(["definitions", "passages"])) == 64
    # The reference embeds all kinds at once, the servers one kind after the other.
    assert sample(["definitions", "passages"]) == sample(["definitions"]) + sample(["passages"])
    assert grouped(["a", "b", "c", "d", "e"], 2) == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("main", [text_command.main, clip_command.main])
def test_commands_explain_themselves(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--rounds" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "nothing", "--peers", "nobody"])
