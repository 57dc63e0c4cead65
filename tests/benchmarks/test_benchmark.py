"""`benchmark.py` as a command, against a small HTTP server that plays the embedding server."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.loadtest.connection import AnswerError, Connection, read_head
from benchmarks.loadtest.records import inference_ms
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.texts import BuiltInTexts, texts
from tests.conftest import MINILM, ROOT
from tests.support.fake_embedding_server import Played, played

ORIGINAL_LINES = (
    "Benchmark results:",
    "Concurrent threads: 4",
    "Requests per thread: 5",
    "Total requests: 20",
    "Total benchmark time: ",
    "QPS: ",
    "Mean response time: ",
    "Median response time: ",
    "Standard deviation of response times: ",
    "Mean inference time: 1.5000 ms",
    "Median inference time: 1.5000 ms",
    "Standard deviation of inference times: 0.0000 ms",
)


@pytest.fixture
def server() -> Iterator[Played]:
    with played() as server:
        yield server


def benchmark(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmark.py", "--url", url, "--warmup", "0", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


SMALL = ("--connections", "4", "--requests", "5")


def test_lines_and_json(server: Played) -> None:
    done = benchmark(server.url, *SMALL)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    for line, expected in zip(printed, ORIGINAL_LINES, strict=False):
        assert line.startswith(expected)
    assert "Errors: 0" in printed
    assert "Cache hits: 25.0% (20 of 80)" in printed
    assert "Mean batch size: 3.00 (60 texts in 20 runs)" in printed
    assert any(line.startswith("Client CPU per request: 0.") for line in printed)
    report = json.loads(printed[-1])
    assert (report["void"], report["errors"], report["dimension"]) == (False, 0, 3)
    assert report["hardware"]["cores"] >= 1
    figures = report["figures"]
    assert figures["total_requests"] == 20
    assert figures["qps"] == pytest.approx(20 / figures["seconds"])
    response = figures["response_ms"]
    assert 0 < response["p50"] <= response["p90"] <= response["p95"] <= response["p99"] <= response["max"]
    assert figures["bytes_out"] > 20 * 100
    assert figures["bytes_in"] > 20 * 50
    assert "20 of 20 requests" in done.stderr


def test_texts_are_all_different_in_all_processes(server: Played) -> None:
    done = benchmark(
        server.url, *SMALL, "--processes", "2", "--warmup", "6", "--texts-per-request", "7", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["figures"]["total_requests"] == 20
    sent = server.texts()
    assert len(sent) == len(set(sent)) == 7 * (1 + 6 + 20)
    assert len({len(text.split()) for text in sent}) > 10


def test_other_options(server: Played, tmp_path: Path) -> None:
    server.loaded = False
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(f"Übung {number}" for number in range(50)), encoding="utf-8")
    options = ["--route", "/infer_text", "--api-key", "secret", "--text-file", str(lines), "--distinct", "3"]
    done = benchmark(server.url, *SMALL, *options)
    assert done.returncode == 0, done.stderr
    assert server.loads == [{"model_name": MINILM}]
    assert server.keys == {"Bearer secret"}
    assert "secret" not in done.stdout
    sent = set(server.texts()[1:])
    assert 1 < len(sent) <= 3
    assert all(text.startswith("Übung ") for text in sent)


def test_a_text_file_that_repeats_is_said(server: Played, tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("one\ntwo\n\none\nthree\n")
    done = benchmark(server.url, *SMALL, "--text-file", str(lines))
    assert done.returncode == 0, done.stderr
    assert "20 texts were drawn from a file of 3" in done.stderr


def test_duration_ends_the_run(server: Played) -> None:
    done = benchmark(server.url, "--connections", "2", "--duration", "0.6", "--json")
    assert done.returncode == 0, done.stderr
    assert 0.5 < json.loads(done.stdout)["figures"]["seconds"] < 10


def test_a_failed_request_voids_the_run(server: Played, tmp_path: Path) -> None:
    server.fails = frozenset({5, 9})
    picture = tmp_path / "void.png"
    done = benchmark(server.url, *SMALL, "--plot", str(picture))
    assert done.returncode == 1
    assert "This run is void: 2 of 20 requests failed; the first: HTTP 503" in done.stderr
    assert "Triton is not ready" in done.stderr
    assert "QPS" not in done.stdout
    report = json.loads(done.stdout)
    assert (report["void"], report["errors"], report["figures"]) == (True, 2, None)
    assert not picture.exists()


def test_a_request_that_hangs_fails(server: Played) -> None:
    server.stall = (3, 3.0)
    done = benchmark(server.url, *SMALL, "--timeout", "0.5")
    assert done.returncode == 1
    assert "no answer within 0.5 s" in done.stderr


def test_a_kept_connection_that_the_server_closes_is_opened_again(server: Played) -> None:
    server.hangs_up = frozenset({12})
    done = benchmark(server.url, "--connections", "1", "--requests", "20", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["reconnects"] == 1


def test_open_loop_counts_from_the_moment_a_request_was_due(server: Played) -> None:
    server.stall = (40, 1.0)
    rate = ["--rate", "100", "--duration", "2", "--arrivals", "uniform"]
    done = benchmark(server.url, "--connections", "2", *rate, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["total_requests"] == 200
    # The 100 requests that fell due while nothing was answered waited 0.5 s on the mean, though only
    # two of them were on a connection.
    assert figures["response_ms"]["max"] > 900
    assert figures["response_ms"]["mean"] > 200
    assert figures["response_ms"]["p90"] > 500
    assert figures["seconds"] > 1.9


def test_poisson_arrivals_keep_the_rate(server: Played) -> None:
    rate = ["--rate", "200", "--duration", "1.5", "--processes", "2", "--seed", "1"]
    done = benchmark(server.url, "--connections", "20", *rate)
    assert done.returncode == 0, done.stderr
    assert "Requested rate: 200 requests/s, poisson arrivals" in done.stdout
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures["total_requests"] == 300
    assert 150 < figures["qps"] < 260


def test_the_plot_is_a_picture(server: Played, tmp_path: Path) -> None:
    picture = tmp_path / "load.png"
    done = benchmark(server.url, *SMALL, "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width >= 1000
        halves = [
            image.crop((left, 0, left + image.width // 2, image.height)) for left in (0, image.width // 2)
        ]
        for half in halves:
            colors = half.convert("RGB").getcolors(1 << 24)
            assert colors is not None
            assert len(colors) > 50
            assert max(count for count, _ in colors) < 0.98 * half.width * half.height


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert "does not answer" in benchmark(url, *SMALL).stderr
    for url, option, value in (
        ("https://127.0.0.1", "--seed", "1"),
        ("http://127.0.0.1", "--plot", str(tmp_path / "none" / "x.png")),
        ("http://127.0.0.1", "--rate", "0"),
        ("http://127.0.0.1", "--input", "pictures"),
        ("http://127.0.0.1", "--route", "/infer_image"),
    ):
        done = benchmark(url, option, value)
        assert done.returncode != 0
        assert not done.stdout
        assert "Traceback" not in done.stderr


def test_lengths_of_the_built_in_texts(minilm_path: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{minilm_path}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lengths = {}
    for kind in ("glosses", "definitions", "passages"):
        made = BuiltInTexts(kind, seed=3)
        lengths[kind] = sorted(len(tokenizer.encode(made.text(serial)).ids) for serial in range(400))
    assert 10 <= lengths["glosses"][200] <= 16
    assert lengths["glosses"][0] >= 5
    assert lengths["glosses"][-1] <= 64
    assert 14 <= lengths["definitions"][200] <= 19
    assert lengths["definitions"][-1] <= 140
    assert lengths["passages"][0] >= 100
    assert lengths["passages"][-1] <= 400
    assert 220 <= lengths["passages"][200] <= 280


def test_two_seeds_give_other_texts_and_one_seed_the_same() -> None:
    def first(seed: int) -> list[str]:
        row = texts(Settings(seed=seed), process=0)
        return [next(row) for _ in range(50)]

    assert first(1) == first(1)
    assert not set(first(1)) & set(first(2))


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_answers_in_any_pieces(size: int) -> None:
    body = b'{"embedding":[[' + b"0.25," * 500 + b'1]],"processingTimeMs":12.5}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(("", 0))
        connection.socket = ours
        scratch = bytearray(8192)
        for start in range(0, len(answer), size):
            theirs.sendall(answer[start : start + size])
            received = connection.receive(scratch)
            assert (received is not None) == (start + size >= len(answer))
    assert received is not None
    assert (received.status, received.keep_alive, inference_ms(received)) == (200, False, 12.5)
    assert bytes(received.buffer[received.start : received.end]) == body


def test_what_is_no_answer_is_refused() -> None:
    for head in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        with pytest.raises(AnswerError):
            read_head(bytearray(head), len(head))
