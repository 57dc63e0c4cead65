"""Tests of Triton and its models' processes, killed, crashed, frozen and asleep under load."""

import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import ROOT, Server
from tests.faults.conftest import BERT, LIMIT, OTHER, Farm, MakeLoad, Note, wait_loaded
from tests.faults.load import Kind
from tests.faults.processes import family, is_of, stopped, stub_of, triton_of
from tests.support.waiting import wait_until

SLEEPER = """
import sys, time
from pathlib import Path

sys.path.insert(0, "{project}")
from triton_models.backends.onnxruntime.model import TritonPythonModel as Awake


class TritonPythonModel(Awake):
    def initialize(self, args):
        while Path("{asleep}.start").exists():
            time.sleep(0.02)
        super().initialize(args)

    def execute(self, requests):
        if Path("{asleep}.little").exists():
            time.sleep(0.7)
        while Path("{asleep}").exists():
            time.sleep(0.02)
        return super().execute(requests)
"""
"""The project's own backend as a model of the repository, which sleeps while a file exists."""


@dataclass(frozen=True)
class Sleepy:
    """A server whose OTHER sleeps while `asleep` exists."""

    server: Server
    asleep: Path


@pytest.fixture(scope="module")
def sleepy(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleepy]:
    made = sleepy_server(farm, tmp_path_factory.mktemp("sleepy"))
    with made.server.running():
        wait_loaded(made.server)
        yield made
        made.asleep.unlink(missing_ok=True)


def sleepy_server(farm: Farm, root: Path) -> Sleepy:
    server, asleep = farm.server(root), root / "asleep"
    model = server.repository / "tiny_other"
    [version] = (path for path in model.iterdir() if path.is_dir())
    (version / "model.py").write_text(SLEEPER.format(project=ROOT, asleep=asleep))
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    return Sleepy(server, asleep)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_triton_ends_and_comes_back_with_its_models(
    sleepy: Sleepy, load: MakeLoad, note: Note, number: signal.Signals
) -> None:
    with load(sleepy.server) as under:
        under.settle()
        with under.fault():
            triton_of(sleepy.server).send_signal(number)
    note(f"{number.name} of Triton", under)
    under.check()


def test_a_model_s_process_killed(sleepy: Sleepy, load: MakeLoad, note: Note) -> None:
    with load(sleepy.server) as under:
        under.settle()
        with under.fault():
            stub_of(sleepy.server, "tiny_bert").kill()
    note("SIGKILL of one model's stub", under)
    under.check()


def test_a_model_that_sleeps_holds_up_no_other(sleepy: Sleepy, load: MakeLoad, note: Note) -> None:
    with load(sleepy.server) as under:
        under.settle()
        with under.fault():
            sleepy.asleep.touch()
            time.sleep(2)
            before = {name: under.counts(name)[Kind.RIGHT] for name in (BERT, OTHER)}
            time.sleep(1)
            assert under.counts(BERT)[Kind.RIGHT] > before[BERT], "the other model waits too"
            # All its requests wait by now, but what the cache can answer.
            assert under.counts(OTHER)[Kind.RIGHT] == before[OTHER]
            sleepy.asleep.unlink()
    note("a stub sleeps for 3 s", under)
    under.check()
    under.check(allowed=(), pool=BERT)


@pytest.mark.slow
def test_a_model_that_hangs_is_refused_in_time_and_holds_up_no_other(
    sleepy: Sleepy, load: MakeLoad, note: Note
) -> None:
    with load(sleepy.server) as under:
        under.settle()
        with under.fault():
            sleepy.asleep.touch()
            time.sleep(2 * LIMIT)
            began = len(under.answers)
            time.sleep(2)
            late = [answer for answer in under.answers[began:] if answer.pool == BERT]
            assert any(answer.kind is Kind.RIGHT for answer in late), "the other model does not answer"
            sleepy.asleep.unlink()
    note(f"a stub sleeps for {2 * LIMIT + 2} s", under)
    under.check()
    assert under.counts(OTHER)[Kind.HONEST] > 0


@pytest.mark.slow
def test_a_model_that_blocks_in_the_check_of_its_load_is_loaded_again(
    sleepy: Sleepy, load: MakeLoad, note: Note
) -> None:
    def successor(*before: psutil.Process) -> psutil.Process | None:
        stubs = family(sleepy.server, "triton_python_backend_stub")
        return next((each for each in stubs if is_of(each, "tiny_other") and each not in before), None)

    with load(sleepy.server) as under:
        under.settle()
        with under.fault():
            sleepy.asleep.touch()
            first = stub_of(sleepy.server, "tiny_other")
            first.kill()
            second = wait_until(lambda: successor(first), 60)
            # Nobody wakes it: it is ended, and another takes its place.
            wait_until(lambda: successor(first, second), 60)
            sleepy.asleep.unlink()
    note("a stub blocks while it is loaded", under)
    under.check()
    under.check(allowed=(), pool=BERT)


def test_triton_ends_while_it_loads_a_model(sleepy: Sleepy, load: MakeLoad, note: Note) -> None:
    """The next Triton answers the load."""
    starting = sleepy.asleep.with_name("asleep.start")
    with sleepy.server.client() as client, ThreadPoolExecutor(1) as pool:
        assert client.post("/unload_model", json={"model_name": OTHER}).status_code == 200
        with load(sleepy.server, names=(BERT,)) as under:
            under.settle()
            starting.touch()
            with under.fault():
                body = {"model_name": OTHER}
                loading = pool.submit(client.post, "/load_sentence_transformer_model", json=body)
                stub_of(sleepy.server, "tiny_other")
                triton_of(sleepy.server).kill()
                starting.unlink()
                loaded = loading.result()
        note("SIGKILL of Triton while it loads a model", under)
        under.check()
        assert loaded.status_code == 200, loaded.text
    with load(sleepy.server) as both:
        both.settle()


def test_triton_ends_again_and_again_while_it_loads_what_it_starts_with(farm: Farm, tmp_path: Path) -> None:
    made = sleepy_server(farm, tmp_path)
    starting = made.asleep.with_name("asleep.start")
    starting.touch()
    made.server.start()
    try:
        for _ in range(2):
            stub = stub_of(made.server, "tiny_other")
            triton_of(made.server).kill()
            stub.wait(60)
        starting.unlink()
        made.server.wait_healthy()
        asked = {"model_name": OTHER, "text": "a dog"}
        with made.server.client() as client:
            wait_until(lambda: client.post("/infer_text", json=asked).status_code == 200)
    finally:
        made.server.stop()


@pytest.mark.slow
def test_a_model_that_answers_its_check_slowly_is_loaded(sleepy: Sleepy) -> None:
    """Its process is idle at every look, but the wait is not the model's fault."""
    little = sleepy.asleep.with_name("asleep.little")
    little.touch()
    try:
        with sleepy.server.client() as client:
            assert client.post("/unload_model", json={"model_name": OTHER}).status_code == 200
            loaded = client.post("/load_sentence_transformer_model", json={"model_name": OTHER})
        assert loaded.status_code == 200, loaded.text
    finally:
        little.unlink()


@pytest.mark.slow
def test_triton_frozen_for_seconds_answers_late_or_refuses(
    sleepy: Sleepy, load: MakeLoad, note: Note
) -> None:
    with load(sleepy.server) as under:
        under.settle()
        with under.fault(), stopped(triton_of(sleepy.server)):
            time.sleep(3)
    note("SIGSTOP of Triton, SIGCONT after 3 s", under)
    under.check()


@pytest.mark.slow
def test_triton_frozen_for_good_is_replaced(sleepy: Sleepy, load: MakeLoad, note: Note) -> None:
    with load(sleepy.server) as under:
        under.settle()
        frozen = triton_of(sleepy.server)
        with stopped(frozen), under.fault():
            pass
    note("SIGSTOP of Triton for good", under)
    under.check()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3, None])
def test_a_model_s_process_frozen(sleepy: Sleepy, load: MakeLoad, note: Note, seconds: float | None) -> None:
    with load(sleepy.server) as under:
        under.settle()
        frozen = stub_of(sleepy.server, "tiny_bert")
        if seconds is None:
            with stopped(frozen), under.fault():
                pass
        else:
            with under.fault(), stopped(frozen):
                time.sleep(seconds)
    note(f"SIGSTOP of a stub, {'for good' if seconds is None else f'SIGCONT after {seconds} s'}", under)
    under.check()


def reason_of(client: httpx.Client, triton_name: str) -> str | None:
    """Return the reason that the operator sees for a model that does not serve; None if it serves."""
    models = client.get("/repository_models").json()["models"]
    found = next(model for model in models if model["name"] == triton_name)
    return None if found["state"] == "READY" else str(found["reason"] or "") or None


@pytest.mark.slow
def test_files_damaged_while_they_serve_cost_their_model_alone(
    farm: Farm, tmp_path: Path, load: MakeLoad, note: Note
) -> None:
    server = farm.server(tmp_path)
    with server.running():
        wait_loaded(server)
        [model] = (server.repository / "tiny_other").glob("*/model.onnx")
        whole = model.read_bytes()
        with load(server, names=(BERT,)) as under:
            under.settle()
            model.write_bytes(whole[: len(whole) // 2])
            with under.fault():
                triton_of(server).kill()
            with server.client() as client:
                told = wait_until(lambda: reason_of(client, "tiny_other"))
                assert "/tmp" not in told
                answer = client.post("/infer_text", json={"model_name": OTHER, "text": "a dog"})
                assert answer.status_code == 503, answer.text
        note("a model's file cut short while it serves, then SIGKILL of Triton", under)
        under.check()
        # Mended by whoever broke it, it comes back by itself.
        model.write_bytes(whole)
        with load(server) as both:
            both.settle()
        both.check()
    shutil.rmtree(server.repository)
