"""The loads, and the figures that must hold: one row of the table each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Round = dict[str, dict[str, dict[str, Any]]]
"""Measures of one round: contestant (a server, "ceiling" or "encode"), load, measure."""

OPEN_LOOP_SHARE = 0.7


@dataclass(frozen=True)
class Load:
    """A closed loop of so many connections, unless `open_loop`; texts are a field of texts.Texts."""

    name: str
    title: str
    texts: str
    warm_up: str
    connections: int
    texts_per_request: int = 1
    open_loop: bool = False


LOADS = (
    Load("singles", "64 connections, one unique gloss", "singles", "warm_up", 64),
    Load("bulk", "2 connections, 256 unique glosses", "bulk", "warm_up", 2, 256),
    Load("passages", "16 connections, passages of 100 to 400 tokens", "passages", "passages_warm_up", 16),
    Load("latency", "1 connection, one unique gloss", "latency", "warm_up", 1),
    Load("open", "open loop at 70 % of the highest rate", "open_loop", "warm_up", 64, open_loop=True),
    Load("repeated", "64 connections, 500 distinct glosses", "repeated", "repeated", 64),
)


@dataclass(frozen=True)
class Figure:
    """One figure that must hold.

    value: reads it out of one round; KeyError where a part of it was not measured.
    """

    load: str
    title: str
    limit: float
    at_least: bool
    unit: str
    value: Callable[[Round], float]
    aim: float | None = None
    servers: tuple[str, ...] = ("ours",)
    """Whose load it takes: void where it is void for one of them."""

    def holds(self, value: float) -> bool:
        """Whether the limit is kept."""
        return value >= self.limit if self.at_least else value <= self.limit


def rate(measures: Round, who: str, load: str) -> float:
    """Texts a second."""
    return float(measures[who][load]["texts_per_second"])


def _ratio(load: str, peer: str) -> Callable[[Round], float]:
    """Ours in texts a second, over a peer's in the same round."""
    return lambda measures: rate(measures, "ours", load) / rate(measures, peer, load)


def _share(load: str) -> Callable[[Round], float]:
    kind = "passages" if load == "passages" else "glosses"
    return lambda measures: rate(measures, "ours", load) / float(measures["ceiling"][kind]["best"])


def _over_in_process(measures: Round) -> float:
    return float(measures["ours"]["latency"]["p50"]) - float(measures["ceiling"]["single"]["ms"])


def _rate_per_two_cores(measures: Round) -> float:
    cores = float(measures["machine"]["cpu"]["cores"])
    return rate(measures, "ours", "repeated") * 2 / cores


_WITH_INFINITY = ("ours", "infinity")

FIGURES = (
    Figure(
        "singles", "over infinity-emb torch", 7, True, "x", _ratio("singles", "infinity"), 10, _WITH_INFINITY
    ),
    Figure("singles", "of the in-process ceiling", 0.65, True, "", _share("singles"), 0.8),
    Figure("bulk", "over SentenceTransformer.encode", 4, True, "x", _ratio("bulk", "encode")),
    Figure("bulk", "of the in-process ceiling", 0.85, True, "", _share("bulk")),
    Figure(
        "passages",
        "over infinity-emb torch",
        2.5,
        True,
        "x",
        _ratio("passages", "infinity"),
        servers=_WITH_INFINITY,
    ),
    Figure("latency", "p50 over the in-process time", 1, False, "ms", _over_in_process),
    Figure(
        "repeated",
        "over the unique rate",
        4,
        True,
        "x",
        lambda measures: rate(measures, "ours", "repeated") / rate(measures, "ours", "singles"),
    ),
    Figure("repeated", "requests/s per 2 cores", 4000, True, "", _rate_per_two_cores),
    Figure(
        "open",
        "p99 over p50",
        5,
        False,
        "x",
        lambda measures: float(measures["ours"]["open"]["p99"]) / float(measures["ours"]["open"]["p50"]),
    ),
    Figure(
        "singles",
        "front end CPU per request",
        0.35,
        False,
        "ms",
        lambda measures: float(measures["ours"]["singles"]["front_end_cpu_ms"]),
    ),
    Figure(
        "soak",
        "memory at the end over that after a minute",
        1.05,
        False,
        "x",
        lambda measures: float(measures["ours"]["soak"]["growth"]),
    ),
)
