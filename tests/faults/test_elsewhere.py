"""Tests of a Triton at TRITON_GRPC_ADDRESS that ends and comes back, behind an unreliable network."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import Server, free_port
from tests.faults.conftest import LIMIT, Farm, MakeLoad, Note, wait_loaded
from tests.faults.load import Kind
from tests.faults.processes import LoneTriton, family
from tests.faults.proxy import CHUNK, Proxy
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Apart:
    """A gateway, and a Triton that it reaches through the proxy."""

    server: Server
    triton: LoneTriton
    proxy: Proxy


@pytest.fixture(scope="module")
def apart(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    root = tmp_path_factory.mktemp("apart")
    with Proxy(free_port()) as proxy:
        server = farm.server(root, TRITON_GRPC_ADDRESS=f"127.0.0.1:{proxy.port}")
        triton = LoneTriton(server.repository, proxy.target, free_port(), root / "triton.log")
        with triton.running(), server.running():
            wait_loaded(server)
            assert family(server, "tritonserver") == [], "it started one of its own"
            yield Apart(server, triton, proxy)


def test_it_ends_and_comes_back_at_the_same_address(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        starts = apart.triton.starts
        with under.fault():
            apart.triton.kill()
            wait_until(lambda: apart.triton.starts > starts)
    note("an external Triton is killed, and started again", under)
    under.check()


@pytest.mark.slow
def test_connections_cut(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        for _ in range(3):
            with under.fault(steady=0.5):
                apart.proxy.cut()
    note("connections to Triton reset", under)
    under.check()


@pytest.mark.parametrize(
    ("after", "times"),
    [
        (100, 1),
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(3000, 1, marks=pytest.mark.slow),
        # One in five crashes Triton, one in fifty hangs it in its crash.
        pytest.param(100, 60, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_connections_cut_in_the_middle_of_an_answer(
    apart: Apart, load: MakeLoad, note: Note, after: int, times: int
) -> None:
    starts, cuts = apart.triton.starts, apart.proxy.cuts
    with load(apart.server) as under:
        under.settle()
        for _ in range(times):
            with under.fault(steady=0.5):
                apart.proxy.cut_in_answer(after)
                time.sleep(0.5)
    assert apart.proxy.cuts == cuts + times
    ended = apart.triton.starts - starts
    note(f"reset after {after} bytes of answers, {times} times: Triton crashed {ended} times", under)
    under.check()


@pytest.mark.slow
def test_connections_half_closed(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        with under.fault():
            apart.proxy.half_close()
    note("connections to Triton half closed", under)
    under.check()


@pytest.mark.slow
def test_refused_and_let_in_again(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        with under.fault():
            apart.proxy.refuse()
            apart.proxy.cut()
            time.sleep(2)
            apart.proxy.accept()
    note("Triton's port refuses for 2 s", under)
    under.check()
    assert under.counts()[Kind.HONEST] > 0


@pytest.mark.slow
def test_slow_and_in_small_pieces(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        with under.fault():
            apart.proxy.delay, apart.proxy.chunk = 0.005, 700
            time.sleep(5)
            apart.proxy.delay, apart.proxy.chunk = 0.0, CHUNK
    note("140 kB/s in pieces of 700 bytes for 5 s", under)
    under.check()


@pytest.mark.slow
def test_nothing_passes_for_seconds(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        with under.fault():
            apart.proxy.stall()
            time.sleep(3)
            apart.proxy.resume()
    note("nothing passes for 3 s", under)
    # Late, and within the limit.
    under.check()


@pytest.mark.slow
def test_nothing_passes_for_longer_than_a_request_may_take(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        with under.fault():
            apart.proxy.stall()
            time.sleep(2 * LIMIT)
            apart.proxy.resume()
    note(f"nothing passes for {2 * LIMIT} s", under)
    under.check()
    assert under.counts()[Kind.HONEST] > 0


@pytest.mark.slow
def test_a_connection_that_was_forgotten_is_given_up(apart: Apart, load: MakeLoad, note: Note) -> None:
    with load(apart.server) as under:
        under.settle()
        with under.fault(patience=120):
            apart.proxy.forget()
    note("a router forgets the connections to Triton", under)
    under.check()
