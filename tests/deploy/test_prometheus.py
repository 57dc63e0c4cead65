"""A real Prometheus scrapes a real server under load: the metrics, the dashboard, the alerts."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.telemetry.metrics import exposition
from tests.conftest import MINILM, ROOT, Server, free_port

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
KEY = "the-key-of-prometheus"
QUIET = {"Queue in the gateway", "Rejected", "Errors by route"}
"""Panels that are empty while nothing waits, is refused or fails."""

SERVED = MINILM.replace("/", "_")


@dataclass
class Prometheus:
    """One that scrapes the server every half second."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, at this moment; those that are not numbers left out."""
        found = [
            (one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]
        ]
        return [(labels, value) for labels, value in found if value == value]


@pytest.fixture(scope="module")
def server(converted_minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers: what each counts is summed."""
    root = tmp_path_factory.mktemp("scraped")
    shutil.copytree(converted_minilm, root / "repository")
    settings = {"LOAD_MODELS": MINILM, "API_KEYS": KEY}
    uvicorn = ("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2")
    with Server(root / "repository", settings, root / "server.log", uvicorn).running() as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


@pytest.fixture(scope="module")
def prometheus(
    server: Server, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """With the configuration and the rules of deploy/, after some seconds of load."""
    root = tmp_path_factory.mktemp("prometheus")
    shutil.copy(DEPLOY / "alerts.yml", root)
    (root / "api_key").write_text(KEY)
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    [scrape] = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
    without = {name: value for name, value in scrape.items() if name != "authorization"}
    config["scrape_configs"].append({**without, "job_name": "without-a-key"})
    (root / "prometheus.yml").write_text(yaml.safe_dump(config))
    subprocess.run(["promtool", "check", "config", root / "prometheus.yml"], check=True, capture_output=True)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={root / 'prometheus.yml'}",
        f"--storage.tsdb.path={root / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (root / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            running = Prometheus(f"http://127.0.0.1:{port}")
            wait_ready(running)
            for route in ("/unload_model", "/load_sentence_transformer_model"):
                assert api.post(route, json={"model_name": MINILM}).status_code == 200
            load(api, seconds=8)
            yield running
        finally:
            process.terminate()


def wait_ready(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            ready = httpx.get(f"{prometheus.url}/-/ready", trust_env=False)
            if ready.status_code == 200 and prometheus.query("up"):
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def load(api: httpx.Client, seconds: float) -> None:
    """Texts alone and together, new ones and known ones, and some that are refused."""
    end = time.monotonic() + seconds

    def caller(number: int) -> None:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            text = [f"{number} {turn}", "the same"] if turn % 2 else "the same"
            assert api.post("/infer_text", json={"model_name": MINILM, "text": text}).status_code == 200
            time.sleep(0.02)
        assert api.post("/infer_text", json={"model_name": "no/such", "text": "a"}).status_code == 404

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()


def scraped(api: httpx.Client, timeout: float = 10) -> str:
    """As Prometheus asks, and within the time that it allows by default."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    answer = api.get("/metrics", headers={"Accept": accept}, timeout=timeout)
    assert answer.status_code == 200
    return answer.text


def families(text: str) -> dict[str, str]:
    """Types by name."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {series}"
    return float(found[1])


def lint(text: str) -> list[str]:
    """What promtool has against the metrics; empty for nothing."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == (not done.stderr), done.stderr
    return done.stderr.splitlines()


def test_names_and_units_are_those_of_the_conventions(api: httpx.Client) -> None:
    text = scraped(api)
    # Triton's own are passed on under their own names, which NVIDIA's dashboards know.
    assert [line for line in lint(text) if not line.startswith("nv_")] == []
    assert any(name.startswith("nv_") for name in families(text))


def test_no_metric_is_shown_twice(api: httpx.Client) -> None:
    shown = re.findall(r"^# TYPE (\S+) ", scraped(api), re.MULTILINE)
    assert sorted(shown) == sorted(set(shown))


def test_prometheus_needs_the_key_and_no_more(prometheus: Prometheus) -> None:
    up = {labels["job"]: value for labels, value in prometheus.query("up")}
    assert up == {"embedding-server": 1, "without-a-key": 0}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_shows_something(panel: dict[str, Any], prometheus: Prometheus) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    found = [prometheus.query(written(target["expr"], "6s")) for target in panel["targets"]]
    assert any(found) or panel["title"] in QUIET


def test_every_metric_that_is_asked_for_is_there(api: httpx.Client) -> None:
    # Several workers show no metric with labels before it has one; alone, a process shows all.
    there = families(exposition().decode()) | families(scraped(api))
    asked = DASHBOARD["panels"], yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    for name in set(re.findall(r"\b(?:embedding|nv)_[a-z_]+\b", json.dumps(asked))):
        family = re.sub("_(bucket|sum|count)$", "", name)
        assert name in there or there.get(family) == "histogram", name


def test_the_dashboard_tells_the_truth(prometheus: Prometheus, api: httpx.Client) -> None:
    """A few figures against what was sent; the two workers' counters are summed."""
    sent = 40
    before = value(scraped(api), f'embedding_texts_total{{model="{SERVED}"}}')
    for number in range(sent):
        # New connections, so that both workers get some.
        ask = {"model_name": MINILM, "text": f"counted {number % 10}"}
        headers = {"Authorization": api.headers["Authorization"]}
        httpx.post(f"{api.base_url}/infer_text", json=ask, headers=headers, trust_env=False, timeout=30)
    assert value(scraped(api), f'embedding_texts_total{{model="{SERVED}"}}') == before + sent
    [hit_rate] = [panel["targets"][0]["expr"] for panel in PANELS if panel["title"] == "Cache hits"]
    [(_, hits)] = prometheus.query(written(hit_rate, "1m"))
    assert 0 < hits < 1
    for flag in ("embedding_healthy", "embedding_triton_up", "embedding_triton_metrics_up"):
        assert [state for _, state in prometheus.query(flag)] == [1]
    memory = {labels["process"]: size for labels, size in prometheus.query("embedding_resident_memory_bytes")}
    assert set(memory) == {"front_end", "triton"}
    assert all(size > 5e7 for size in memory.values())


def written(expression: str, window: str) -> str:
    """A panel's query as Grafana sends it."""
    return expression.replace("$__rate_interval", window).replace("$instance", ".*")


def test_the_rules_are_valid_and_evaluated(prometheus: Prometheus) -> None:
    subprocess.run(["promtool", "check", "rules", DEPLOY / "alerts.yml"], check=True, capture_output=True)
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert rules
    assert {rule["health"] for rule in rules} == {"ok"}
    # How long a request takes is the machine's affair.
    assert {rule["name"] for rule in rules if rule["state"] != "inactive"} <= {"EmbeddingLatency"}


def test_a_scrape_says_that_triton_is_gone_and_does_not_wait_for_it(
    server: Server, api: httpx.Client, prometheus: Prometheus
) -> None:
    [record] = (server.repository / ".state" / "triton").glob("*/server.json")
    pid = json.loads(record.read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    # Less than the 5 s after which a call to Triton or its metrics ends by itself.
    deadline = time.monotonic() + 30
    while value(text := scraped(api, timeout=4), "embedding_triton_up"):
        # On a busy machine its threads stop one after another.
        assert time.monotonic() < deadline
    assert value(text, "embedding_triton_metrics_up") == 0
    assert "embedding_http_requests_total" in text
    assert lint(text) == []
    restarts = value(text, "embedding_triton_restarts_total")
    os.kill(pid, signal.SIGKILL)
    server.wait_healthy()
    text = scraped(api)
    assert value(text, "embedding_triton_up") == 1
    assert value(text, "embedding_triton_restarts_total") == restarts + 1
    deadline = time.monotonic() + 20
    while not prometheus.query('ALERTS{alertname="EmbeddingTritonRestarted"}'):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_table_of_metrics_is_complete(api: httpx.Client) -> None:
    table = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    documented = dict(re.findall(r"^\| `(embedding_\w+)(?:\{[^}]*\})?` \| (\w+) \|", table, re.MULTILINE))
    there = families(exposition().decode()) | families(scraped(api))
    shown = {name: kind for name, kind in there.items() if name.startswith("embedding_")}
    assert documented == shown
