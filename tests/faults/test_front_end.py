"""Tests of a gateway that is killed or runs out of descriptors, and of clients that leave mid-request."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import Server
from tests.faults.conftest import Farm, MakeLoad, Note, right, wait_loaded
from tests.faults.load import Kind, Pool
from tests.faults.processes import end_of, family, leftovers
from tests.faults.proxy import RESET
from tests.support.waiting import wait_until

REQUEST = b'{"model_name": "tiny/bert", "text": "a dog"}'


@pytest.fixture
def front_end(shared: Server) -> Iterator[psutil.Process]:
    """Yield the gateway's process; restore its limit on descriptors at the end."""
    assert shared.process is not None
    process = psutil.Process(shared.process.pid)
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    yield process
    process.rlimit(psutil.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_its_end_leaves_nothing_behind_and_the_next_start_converts_nothing(
    shared: Server, pools: dict[str, Pool], number: signal.Signals
) -> None:
    children = family(shared)
    assert any("tritonserver" in child.name() for child in children)
    shared.signal(number)
    assert shared.process is not None
    shared.process.wait(20)
    assert end_of(children) == []
    if number is not signal.SIGKILL:
        assert leftovers(shared.repository) == []
    shared.start()
    shared.wait_healthy()
    wait_loaded(shared)
    assert len(leftovers(shared.repository)) == len(set(leftovers(shared.repository)))
    for pool in pools.values():
        right(shared, pool)
    assert "convert " not in shared.log.read_text()


def test_clients_that_vanish_leave_nothing_behind(
    shared: Server, front_end: psutil.Process, load: MakeLoad, note: Note
) -> None:
    whole = b"POST /infer_text HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(REQUEST) + REQUEST
    with load(shared) as under:
        under.settle()
        before = front_end.num_fds()
        with under.fault():
            for turn in range(400):
                with socket.create_connection(("127.0.0.1", shared.port)) as client:
                    # In the head, in the body, and while the answer is made.
                    client.sendall(whole[: (30, len(whole) - 5, len(whole))[turn % 3]])
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wait_until(lambda: front_end.num_fds() <= before + 2, 20)
    note("400 clients reset their connection in mid-request", under)
    under.check(allowed=())
    assert in_flight(shared) == 1, "only the request that asks"


@pytest.mark.slow
def test_idle_connections_cost_the_others_nothing(shared: Server, load: MakeLoad, note: Note) -> None:
    with load(shared) as under, ExitStack() as idle:
        under.settle()
        with under.fault():
            for number in range(400):
                client = idle.enter_context(socket.create_connection(("127.0.0.1", shared.port)))
                client.sendall(b"POST /infer_text HTTP/1.1\r\nHost: x\r\n"[: number % 40])
            time.sleep(1)
    note("400 connections that never finish a request", under)
    under.check(allowed=())


def test_out_of_descriptors_it_goes_on_and_recovers(
    shared: Server, front_end: psutil.Process, load: MakeLoad, note: Note, pools: dict[str, Pool]
) -> None:
    with load(shared) as under:
        under.settle()
        hard = front_end.rlimit(psutil.RLIMIT_NOFILE)[1]
        with under.fault(), ExitStack() as idle:
            front_end.rlimit(psutil.RLIMIT_NOFILE, (front_end.num_fds() + 10, hard))
            for _ in range(60):
                idle.enter_context(socket.create_connection(("127.0.0.1", shared.port)))
            time.sleep(2)
    note("no descriptor left in the front end", under)
    # Connections that were there are served on; new ones wait or are cut.
    under.check(allowed=())
    for pool in pools.values():
        right(shared, pool)


@pytest.mark.slow
def test_a_worker_killed_takes_no_request_of_another_with_it(
    farm: Farm, tmp_path: Path, load: MakeLoad, note: Note
) -> None:
    uvicorn = ("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", "3")
    server = farm.server(tmp_path, *uvicorn)
    with server.running():
        wait_loaded(server)
        tritons = [each for each in family(server) if each.name() == "tritonserver"]
        assert len(tritons) == 1
        workers = [each for each in family(server, "spawn_main") if each.pid != tritons[0].ppid()]
        with load(server) as under:
            under.settle()
            with under.fault():
                workers[0].kill()
            assert tritons[0].is_running()
            # The one that owns Triton: another worker starts the next.
            with under.fault():
                os.kill(tritons[0].ppid(), signal.SIGKILL)
            assert end_of(tritons) == []
        note("SIGKILL of one of three workers, then of Triton's owner", under)
        under.check(allowed=(Kind.HONEST, Kind.CUT))
        children = family(server)
    assert end_of(children) == []
    assert leftovers(server.repository) == []


def in_flight(server: Server) -> float:
    """Return the number of requests in flight in the gateway."""
    with server.client() as client:
        text = client.get("/metrics", headers={"Accept": "text/plain"}).text
    lines = [line for line in text.splitlines() if line.startswith("embedding_http_requests_in_flight ")]
    return float(lines[0].split()[1])
