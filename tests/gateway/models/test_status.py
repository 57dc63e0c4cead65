"""Health, lists and metrics."""

import re
from pathlib import Path

import httpx

from gateway.api.error_responses import error_body, from_triton
from tests.conftest import MINILM
from tests.support import tiny_models
from triton_models.client.errors import InferenceRejected, WrongAnswer


def test_health_and_liveness(client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    assert client.get("/health/live").status_code == 200


def test_loaded_models_are_named_as_in_triton(client: httpx.Client) -> None:
    assert MINILM.replace("/", "_") in client.get("/loaded_models").json()["models"]


def test_metrics_are_tritons_statistics(client: httpx.Client) -> None:
    text = {"model_name": MINILM, "text": "counted twice, computed once"}
    for _ in range(2):
        assert client.post("/infer_text", json=text).status_code == 200
    for accept in ("*/*", "application/json"):
        stats = client.get("/metrics", headers={"Accept": accept}).json()["model_stats"]
    model = next(model for model in stats if model["name"] == MINILM.replace("/", "_"))
    figures = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}
    assert figures | {"cache_hit", "cache_miss"} <= set(model["inference_stats"])
    assert model["inference_stats"]["cache_hit"]["count"] >= 1


def test_metrics_are_prometheus_text_where_that_is_asked_for(client: httpx.Client) -> None:
    client.post("/infer_text", json={"model_name": MINILM, "text": "a"})
    client.post("/infer_text", json={"model_name": "no/such", "text": "a"})
    for path, accept in (
        ("/metrics", "text/plain"),
        ("/metrics", "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"),
        ("/metrics/prometheus", "*/*"),
        ("/metrics/prometheus", "application/json"),
    ):
        answer = client.get(path, headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'embedding_http_requests_total{route="/infer_text",status="200"}' in answer.text
        assert 'embedding_http_requests_total{route="/infer_text",status="404"}' in answer.text
        assert 'embedding_http_request_duration_seconds_bucket{le="0.001",route="/infer_text"}' in answer.text
        assert "embedding_http_requests_in_flight 1.0" in answer.text
        assert f'embedding_texts_total{{model="{MINILM.replace("/", "_")}"}}' in answer.text
        assert "nv_inference_request_success" in answer.text


def test_unknown_paths_do_not_make_labels(client: httpx.Client) -> None:
    client.get("/a-path-that-is-nowhere")
    text = client.get("/metrics", headers={"Accept": "text/plain"}).text
    assert "a-path-that-is-nowhere" not in text
    assert 'route="unmatched"' in text


def test_conversions_and_loads_are_counted_by_how_they_ended(
    client: httpx.Client, model_sources: Path
) -> None:
    def count(metric: str, result: str) -> float:
        text = client.get("/metrics", headers={"Accept": "text/plain"}).text
        found = re.search(rf'^{metric}_count{{result="{result}"}} (\S+)$', text, re.MULTILINE)
        assert found
        return float(found[1])

    conversion, load = "embedding_conversion_duration_seconds", "embedding_model_load_duration_seconds"
    tiny_models.static_model(model_sources / "tiny" / "counted")
    conversions, loads = count(conversion, "success"), count(load, "success")
    assert loads >= 3
    counted = {"model_name": "tiny/counted"}
    assert client.post("/load_sentence_transformer_model", json=counted).status_code == 200
    assert (count(conversion, "success"), count(load, "success")) == (conversions + 1, loads + 1)
    assert client.post("/delete_model", json=counted).status_code == 200
    failures = count(conversion, "failure")
    assert client.post("/load_sentence_transformer_model", json={"model_name": "no/such"}).status_code == 404
    assert count(conversion, "failure") == failures + 1


def test_no_answer_holds_a_path_or_an_address(client: httpx.Client) -> None:
    for answer in (
        client.get("/repository_models"),
        client.get("/health"),
        client.post("/load_sentence_transformer_model", json={"model_name": "no/such"}),
    ):
        assert "site-packages" not in answer.text
        assert "/tmp" not in answer.text
        assert "127.0.0.1" not in answer.text


def test_a_wrong_answer_of_triton_is_no_fault_of_the_caller() -> None:
    assert error_body(from_triton(WrongAnswer("another shape")))[0] == 503
    assert error_body(from_triton(InferenceRejected("no such input")))[0] == 422
