"""The loads of a comparison, and the figures that must hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.compare.servers import SERVERS, Server

Round = dict[str, dict[str, Any]]
"""The measures of one round by contestant (a server, "ceiling", "encode"), load and name of the measure."""

Value = Callable[[Round], Any]
"""Reads a value from one round; raises KeyError or TypeError if a part of it was not measured."""

OPEN_LOOP_SHARE = 0.7


@dataclass(frozen=True)
class Load:
    """A closed loop of `connections`, or an open loop."""

    name: str
    title: str
    kind: str
    """The kind of the inputs, as in `inputs.Inputs`."""
    number: int
    """The number of inputs made for the load, which ends early when they run out."""
    connections: int
    per_request: int = 1
    open_loop: bool = False
    distinct: int | None = None
    """The number of inputs from which requests are drawn; all are sent once before."""


@dataclass(frozen=True)
class Figure:
    """One figure that must keep a limit."""

    load: str
    title: str
    limit: float
    unit: str
    value: Value
    at_least: bool = True
    aim: float | None = None
    servers: tuple[str, ...] = ("ours",)
    """The figure is void if its load is void for one of these."""

    def holds(self, value: float) -> bool:
        """Return whether the value keeps the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


at_most = partial(Figure, at_least=False)
"""Makes a figure that must not exceed its limit."""


@dataclass(frozen=True)
class Comparison:
    """Everything in which the comparisons of text models and of CLIP differ."""

    file: str
    """The name of the results' files, without its suffix."""
    markers: tuple[str, str]
    """The lines before and after the tables in docs/benchmarks/comparison.md, with `{cpu}` for its kind."""
    servers: Sequence[Server]
    loads: Sequence[Load]
    figures: Sequence[Figure]
    titles: Mapping[str, str]
    """The titles of the loads that only our server gets."""
    samples: Mapping[str, Sequence[str]]
    """The kinds of the inputs whose vectors are compared, by column of the table."""
    unit: str
    in_process: Callable[[Sequence[Round]], dict[str, Value]]
    """Returns the rows of the table of measurements without a server."""
    panels: Sequence[tuple[str, str, str, str | None]] = ()
    """The panels of the picture: load, title, unit, and the in-process row that is drawn as a line."""


def rate(measures: Round, who: str, load: str) -> float:
    """Return a contestant's inputs per second under a load."""
    return float(measures[who][load]["texts_per_second"])


def ours(load: str, name: str) -> Value:
    """Return a reader of one measure of our server."""
    return lambda measures: float(measures["ours"][load][name])


def _ratio(load: str, peer: str, of_peer: str | None = None) -> Value:
    return lambda measures: rate(measures, "ours", load) / rate(measures, peer, of_peer or load)


def _share(load: str, kind: str = "glosses") -> Value:
    return lambda measures: rate(measures, "ours", load) / float(measures["ceiling"][kind]["best"])


def _over_in_process(measures: Round) -> float:
    return float(measures["ours"]["latency"]["p50"] - measures["ceiling"]["single_ms"])


def _per_2_cores(measures: Round) -> float:
    return rate(measures, "ours", "repeated") * 2 / float(measures["machine"]["cpu"]["cores"])


LOADS = (
    Load("singles", "64 connections, one unique gloss", "definitions", 32_000, 64),
    Load("bulk", "2 connections, 256 unique glosses", "definitions", 26_624, 2, 256),
    Load("passages", "16 connections, passages of 100 to 400 tokens", "passages", 4_600, 16),
    Load("latency", "1 connection, one unique gloss", "definitions", 10_000, 1),
    Load("open", "open loop at 70 % of the highest rate", "definitions", 32_000, 64, open_loop=True),
    Load("repeated", "64 connections, 500 distinct glosses", "definitions", 200_000, 64, distinct=500),
)
_INFINITY: dict[str, Any] = {"servers": ("ours", "infinity")}

FIGURES = (
    Figure("singles", "over infinity-emb torch", 7, "x", _ratio("singles", "infinity"), aim=10, **_INFINITY),
    Figure("singles", "of the in-process ceiling", 0.65, "", _share("singles"), aim=0.8),
    Figure("bulk", "over SentenceTransformer.encode", 4, "x", _ratio("bulk", "encode")),
    Figure("bulk", "of the in-process ceiling", 0.85, "", _share("bulk")),
    Figure("passages", "over infinity-emb torch", 2.5, "x", _ratio("passages", "infinity"), **_INFINITY),
    at_most("latency", "p50 over the in-process time", 1, "ms", _over_in_process),
    Figure("repeated", "over the unique rate", 4, "x", _ratio("repeated", "ours", "singles")),
    Figure("repeated", "requests/s per 2 cores", 4000, "", _per_2_cores),
    at_most("open", "p99 over p50", 5, "x", lambda m: ours("open", "p99")(m) / ours("open", "p50")(m)),
    at_most("singles", "front end CPU per request", 0.35, "ms", ours("singles", "front_end_cpu_ms")),
    at_most("soak", "memory at the end over that after a minute", 1.05, "x", ours("soak", "growth")),
)


def _in_process(_rounds: Sequence[Round]) -> dict[str, Value]:
    return {
        "chosen engine": lambda m: m["ceiling"]["engine"],
        "engine, glosses": lambda m: m["ceiling"]["glosses"]["best"],
        "engine, passages": lambda m: m["ceiling"]["passages"]["best"],
        "engine, one gloss, ms": lambda m: m["ceiling"]["single_ms"],
        "SentenceTransformer.encode, glosses": lambda m: rate(m, "encode", "bulk"),
        "SentenceTransformer.encode, one gloss, ms": lambda m: m["encode"]["latency"]["p50"],
    }


TEXTS = Comparison(
    file="benchmarks",
    markers=("<!-- results {cpu}: written by benchmarks/run -->", "<!-- end of results {cpu} -->"),
    servers=SERVERS,
    loads=LOADS,
    figures=FIGURES,
    titles={"soak": "mixed load for long"},
    samples={"least cosine": ("definitions", "passages")},
    unit="Texts",
    in_process=_in_process,
    panels=(
        ("singles", "64 connections, one unique gloss", "texts/s", "engine, glosses"),
        ("bulk", "2 connections, 256 unique glosses", "texts/s", "engine, glosses"),
        ("passages", "16 connections, passages", "texts/s", "engine, passages"),
        ("repeated", "64 connections, 500 distinct glosses", "texts/s", None),
        ("latency", "1 connection, one unique gloss: p50", "ms", "engine, one gloss, ms"),
        ("open", "open loop at 70 % of its own highest rate: p50 to p99", "ms", None),
    ),
)
