"""Traces, on a real OTLP receiver: from HTTP to Triton's own spans, and when the endpoint is down."""

import base64
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import MINILM, ROOT, Server, free_port
from tests.support.collector import Collector, ReceivedSpan, collecting, named, traceparent
from tests.support.waiting import wait_until

TRITON_CALL = "inference.GRPCInferenceService/ModelInfer"
TEXT = "a most private sentence"
OF_IMAGES = """
import asyncio, sys
from gateway.middleware.tracing import with_tracing
from gateway.allowed_hosts import AllowedHosts
from gateway.images.decoder import ImageDecoder
from gateway.images.fetcher import ImageFetcher
from gateway.images.headers import ImageError
from triton_models.contract.manifest import ImagePreprocessing

traced = with_tracing(lambda *_: None)

async def main():
    spec = ImagePreprocessing(8, 8, "shortest", "bicubic")
    await ImageDecoder(max_bytes=1 << 20, max_pixels=1 << 20).decode(sys.argv[1], spec)
    try:
        fetcher = ImageFetcher(AllowedHosts(), timeout=1, concurrency=1, max_bytes=1 << 20)
        async with fetcher.fetch("http://127.0.0.1:1/a-private-path"):
            pass
    except ImageError:
        pass

asyncio.run(main())
traced._exporting.close(10)
"""

OF_A_CALL = """
import asyncio, functools
import grpc.aio
from gateway.middleware.tracing import with_tracing
from gateway.telemetry.tracing import infer_call
from tritonclient.grpc import service_pb2, service_pb2_grpc

traced = with_tracing(lambda *_: None)

class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request, context):
        print(*(f"{name}={value}" for name, value in context.invocation_metadata()), sep="\\n")
        return service_pb2.ModelInferResponse()

async def main():
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        method = functools.partial(stub.ModelInfer, metadata=(("triton-key", "a-secret"),))
        await infer_call()(method, service_pb2.ModelInferRequest(model_name="m"), 5.0)
    await server.stop(None)

asyncio.run(main())
traced._exporting.close(10)
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting(Collector(free_port())) as collector:
        yield collector


@pytest.fixture(scope="module")
def traced_server(
    collector: Collector, converted_minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("traced")
    shutil.copytree(converted_minilm, root / "repository")
    settings = {
        "LOAD_MODELS": MINILM,
        "API_KEYS": "the-secret-key",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=ours",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_SERVICE_NAME": "embeddings",
    }
    with Server(root / "repository", settings, root / "server.log").running() as server:
        yield server


@pytest.fixture
def traced(traced_server: Server) -> Iterator[httpx.Client]:
    with traced_server.client() as client:
        client.headers["Authorization"] = "Bearer the-secret-key"
        yield client


def ask(client: httpx.Client, headers: dict[str, str], text: str | list[str] = TEXT) -> httpx.Response:
    return client.post("/infer_text", json={"model_name": MINILM, "text": text}, headers=headers)


def ask_until(
    collector: Collector, client: httpx.Client, texts: int, whole: Callable[[list[ReceivedSpan]], bool]
) -> tuple[str, str]:
    """For new texts, as `Collector.ask_until`."""

    def once(trace: str, headers: dict[str, str]) -> None:
        new = [f"{TEXT} {trace} {number}" for number in range(texts)]
        assert ask(client, headers, new).status_code == 200

    return collector.ask_until(once, whole)


def test_one_trace_from_http_to_tritons_own_spans(collector: Collector, traced: httpx.Client) -> None:
    # The two senders come in any order, and Triton's spans from the inside out.
    trace, caller = ask_until(collector, traced, 2, lambda spans: len(spans) == 2 + 2 * 4)
    spans = collector.of(trace)
    [request] = named(spans, "POST /infer_text")
    assert (request.parent, request.kind, request.failed) == (caller, 2, False)
    assert request.attributes["http.route"] == 'string_value: "/infer_text"'
    assert request.attributes["http.request.method"] == 'string_value: "POST"'
    assert request.attributes["http.response.status_code"] == "int_value: 200"
    [tokenize] = named(spans, "tokenize")
    assert (tokenize.parent, tokenize.kind) == (request.id, 1)
    calls = named(spans, TRITON_CALL)
    assert [(call.parent, call.kind) for call in calls] == [(request.id, 3)] * 2
    inside = [span for span in spans if span.service == "embeddings-triton"]
    inferences = [span for span in inside if span.name == MINILM.replace("/", "_")]
    outer = [span for span in inside if span.id in {inference.parent for inference in inferences}]
    assert {span.parent for span in outer} == {call.id for call in calls}
    assert all("QUEUE_START" in inference.events for inference in inferences)
    assert {span.parent for span in named(inside, "compute")} == {inference.id for inference in inferences}
    assert {span.service for span in spans} == {"embeddings", "embeddings-triton"}


def test_both_senders_pass_the_headers_of_the_endpoint(collector: Collector, traced: httpx.Client) -> None:
    both = {"embeddings", "embeddings-triton"}
    ask_until(collector, traced, 1, lambda spans: both <= {span.service for span in spans})
    assert {"application/json", "application/x-protobuf"} == {h["content-type"] for h in collector.headers}
    assert all(each["x-tenant"] == "ours" for each in collector.headers)


def test_a_trace_that_is_not_sampled_stays_so_down_to_triton(
    collector: Collector, traced: httpx.Client
) -> None:
    unsampled, _, headers = traceparent(sampled=False)
    ask(traced, headers, "not to be traced")
    ask_until(collector, traced, 1, lambda spans: bool(named(spans, "compute")))
    assert collector.of(unsampled) == []


def test_a_failure_is_marked_by_its_kind_alone(collector: Collector, traced: httpx.Client) -> None:
    trace, _, headers = traceparent()
    assert ask(traced, headers).status_code == 200
    unknown = {"model_name": "a/private-name", "text": TEXT}
    assert traced.post("/infer_text", json=unknown, headers=headers).status_code == 404
    assert ask(traced, {**headers, "Authorization": "Bearer a-wrong-key"}).status_code == 401
    traced.get("/a-private-path?key=a-wrong-key", headers=headers)
    collector.wait(lambda _: bool(named(collector.of(trace), "GET")))
    statuses = {s.attributes.get("http.response.status_code") for s in collector.of(trace) if s.kind == 2}
    assert statuses >= {f"int_value: {status}" for status in (200, 401, 404)}
    assert named(collector.of(trace), "GET")[0].attributes.get("http.route") is None


def test_loads_show_their_steps_and_probes_show_nothing(collector: Collector, traced: httpx.Client) -> None:
    trace, _, headers = traceparent()
    for path in ("/health", "/health/live", "/metrics", "/metrics/prometheus"):
        traced.get(path, headers=headers)
    for route in ("/unload_model", "/load_sentence_transformer_model"):
        assert traced.post(route, json={"model_name": MINILM}, headers=headers).status_code == 200
    collector.wait(lambda _: bool(named(collector.of(trace), "POST /load_sentence_transformer_model")))
    spans = collector.of(trace)
    assert {"unload model", "load model", "load"} <= {span.name for span in spans}
    [load] = named(spans, "load model")
    assert {span.parent for span in named(spans, "load")} == {load.id}
    assert not [span for span in spans if "/health" in span.name or "/metrics" in span.name]


def test_images_have_spans_without_their_addresses(collector: Collector) -> None:
    """In a process of its own: what is wrapped stays so."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    source = base64.b64encode(picture.getvalue()).decode()
    before = len(collector.spans)
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    subprocess.run([sys.executable, "-c", OF_IMAGES, source], cwd=ROOT, env=environment, check=True)
    spans = collector.wait(lambda spans: len(spans) >= before + 2)[before:]
    assert not named(spans, "decode image")[0].failed
    assert named(spans, "fetch image")[0].failed
    assert named(spans, "fetch image")[0].attributes == {"error.type": 'string_value: "FetchFailed"'}


def test_a_call_keeps_the_headers_that_triton_asks_for(collector: Collector) -> None:
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    done = subprocess.run(
        [sys.executable, "-c", OF_A_CALL],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    metadata = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert metadata["triton-key"] == "a-secret"
    _, trace, parent, _ = metadata["traceparent"].split("-")
    assert [span.id for span in collector.of(trace)] == [parent]


def test_no_span_holds_what_callers_sent(collector: Collector, traced: httpx.Client) -> None:
    trace, _, headers = traceparent()
    ask(traced, headers)
    collector.wait(lambda _: bool(named(collector.of(trace), "POST /infer_text")))
    sent = b"".join(collector.bodies)
    for private in (b"private", b"secret", b"wrong-key", b"/tmp", b"site-packages"):
        assert private not in sent


def test_an_endpoint_that_is_down_harms_nothing_and_is_said_once(
    converted_minilm: Path, tmp_path: Path
) -> None:
    """A server whose endpoint is not there at first, comes, and goes."""
    shutil.copytree(converted_minilm, tmp_path / "repository")
    late = Collector(free_port())
    settings = {
        "LOAD_MODELS": MINILM,
        "OTEL_EXPORTER_OTLP_ENDPOINT": late.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }
    server = Server(tmp_path / "repository", settings, tmp_path / "server.log")
    with server.running(), server.client() as client:
        wait_until(lambda: "traces are dropped" in server.log.read_text())
        [triton_log] = (tmp_path / "repository" / ".state").rglob("triton.log")
        said = triton_log.read_text().count("[Error]")
        for number in range(200):
            assert ask(client, {}, f"text {number % 20}").status_code == 200
        time.sleep(1)
        assert triton_log.read_text().count("[Error]") == said
        with collecting(late):
            # What was kept for the endpoint brings the news.
            _, _, headers = traceparent()
            ask(client, headers)
            wait_until(lambda: "traces are taken again" in server.log.read_text())
            ask_until(late, client, 1, lambda spans: bool(named(spans, "compute")))
        assert ask(client, {}).status_code == 200
    log = server.log.read_text()
    assert log.count("traces are dropped") == 1
    assert "opentelemetry" not in log and "Traceback" not in log  # noqa: PT018 - one thing


def test_nothing_of_it_is_there_while_it_is_off() -> None:
    program = (
        "import sys\n"
        "from gateway import application\n"
        "from gateway.settings import Settings\n"
        "made = application.create_app(Settings(load_models=()))\n"
        "from gateway.middleware import request_context\n"
        "from gateway.telemetry import tracing\n"
        "assert isinstance(made.middleware_stack, request_context.RequestContext)\n"
        "assert tracing.span('a') is tracing.span('b')\n"
        "print(*sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"gateway.telemetry.exporter", "opentelemetry.sdk", "requests"} & set(loaded)


def test_a_variable_that_cannot_be_used_stops_the_start() -> None:
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.strip() == "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf (got 'grpc')"
