"""The processes of the load test; each sends its share of the requests over its share of the connections."""

import gc
import multiprocessing
import resource
import signal
import time
from array import array
from collections.abc import Callable
from ctypes import c_uint64
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import RawArray
from typing import Any

from benchmarks.loadtest.connection import ENDLESS, Connection
from benchmarks.loadtest.load import Load, OpenLoad
from benchmarks.loadtest.loops import poisson
from benchmarks.loadtest.records import Records
from benchmarks.loadtest.requests import Requests
from benchmarks.loadtest.settings import BenchmarkError, Settings, share

_START_AFTER = 0.1
"""The seconds between the signal and the start, so that all processes start at the same moment."""

Show = Callable[[int], None]


def schedule(settings: Settings, process: int) -> "array[float]":
    """Compute the moments at which one process's requests are due, in seconds after the start.

    Independent Poisson processes add up to one, so each process draws its own.
    """
    assert settings.rate is not None
    total = settings.total_requests
    assert total is not None
    mine = settings.share(total, process)
    if settings.arrivals == "uniform":
        return array("d", [(process + settings.processes * i) / settings.rate for i in range(mine)])
    return poisson(settings.rate / settings.processes, mine, f"{settings.seed}/arrivals/{process}")


class Workers:
    """All processes of one load test; they end with this process at the latest."""

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._answered = RawArray(c_uint64, settings.processes)
        self._pipes: list[Pipe] = []
        _allow_sockets(settings.connections)
        for number in range(settings.processes):
            ours, theirs = context.Pipe()
            own = (settings, number, theirs, self._answered)
            context.Process(target=_work, args=own, daemon=True).start()
            theirs.close()
            self._pipes.append(ours)

    def prepare(self) -> list[Records]:
        """Wait until requests are built, connections are open and the warm-up is over; return its records.

        Raises:
            BenchmarkError: The server cannot be reached, or a text file cannot be used.
        """
        return self._collect(lambda _: None)

    def run(self, show: Show) -> tuple[float, list[Records]]:
        """Send the measured load; return the moment of its start and the records of each process.

        Raises:
            BenchmarkError: A process died.
        """
        start = time.monotonic() + _START_AFTER
        for pipe in self._pipes:
            pipe.send(start)
        return start, self._collect(show)

    def _collect(self, show: Show) -> list[Records]:
        collected: dict[Any, Records] = {}
        while left := set(self._pipes) - collected.keys():
            for pipe in wait(left, timeout=0.1):
                collected[pipe] = _receive(pipe)
            show(sum(self._answered))
        return [collected[pipe] for pipe in self._pipes]


def _receive(pipe: Any) -> Records:  # noqa: ANN401 - mypy's `wait` returns more types than a pipe's
    try:
        received: Records | BenchmarkError = pipe.recv()
    except EOFError as error:
        raise BenchmarkError("a process of the load test died") from error
    if isinstance(received, BenchmarkError):
        raise received
    return received


def _allow_sockets(number: int) -> None:
    """Raise the limit of open files as far as the connections require."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number + 100
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise BenchmarkError(f"--connections {number}: the limit of open files is {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _work(settings: Settings, number: int, pipe: Pipe, answered: Any) -> None:  # noqa: ANN401 - a ctypes array
    """Run one process: prepare, report it, wait for the signal, send, hand over the records."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides

    def show(done: int) -> None:
        answered[number] = done

    connections = [Connection(settings.address) for _ in range(settings.share(settings.connections, number))]
    try:
        requests = Requests(settings, number)
        requests.build_ahead(number)
        warm_up = Load(connections, requests.take, settings.timeout)
        measured = _measured(settings, number, connections, requests)
        warm_up.open()
    except (BenchmarkError, OSError) as error:
        pipe.send(BenchmarkError(error))
        return
    warming = settings.share(settings.warmup, number)
    for index, connection in enumerate(connections):
        connection.quota = share(warming, len(connections), index)
    warmed = warm_up.run(time.monotonic(), show)
    # All objects made so far live to the end, so the garbage collector need not scan them.
    gc.freeze()
    pipe.send(warmed)
    start: float = pipe.recv()
    show(0)
    for connection in connections:
        connection.quota = settings.requests if settings.duration is None else ENDLESS
    pipe.send(measured.run(start, show))


def _measured(settings: Settings, number: int, connections: list[Connection], requests: Requests) -> Load:
    if settings.rate is not None:
        return OpenLoad(connections, requests.take, settings.timeout, schedule(settings, number))
    seconds = float("inf") if settings.duration is None else settings.duration
    return Load(connections, requests.take, settings.timeout, seconds=seconds)
