"""Unusable settings stop the start with one line that names the variable."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.settings import SettingsError, read_settings, warn_of_old_names
from triton_models.backends.onnxruntime.sessions import has_bfloat16

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("MODEL_REPOSITORY", "/proc/none"),
        ("MODEL_SOURCES", "/no/such/directory"),
        ("LOAD_MODELS", "../../etc/passwd"),
        ("LOAD_MODELS", "ViT-B-32:../x.pt"),
        ("LOAD_MODELS", "hf-hub:a/b:c"),
        ("IMAGE_HOSTS_ALLOWED", "http://minio:9000"),
        ("IMAGE_HOSTS_ALLOWED", "10.0.0.0/40"),
        ("MAX_IMAGE_PIXELS", "0"),
        ("IMAGE_FETCH_TIMEOUT", "soon"),
        ("TRITON_GRPC_ADDRESS", "http://localhost:8001"),
        ("TRITON_GRPC_ADDRESS", "localhost"),
        ("TRITON_GRPC_URL", "localhost"),
        ("MAX_QUEUED_ROWS", "many"),
        ("MAX_QUEUE_SECONDS", "0"),
        ("RESPONSE_CACHE", "local"),
        ("RESPONSE_CACHE", "memcached://x"),
        ("LOG_LEVEL", "loud"),
        ("MAX_INPUTS", "0"),
        ("REQUEST_TIMEOUT", "-1"),
        ("TRUST_REMOTE_CODE", "maybe"),
    ],
)
def test_an_unusable_value_stops_the_start(name: str, value: str, tmp_path: Path) -> None:
    environment = {"MODEL_REPOSITORY": str(tmp_path), "PATH": "/usr/bin:/bin", name: value}
    ended = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith(f"{name}: ")
    assert value in ended.stderr


@pytest.mark.skipif(has_bfloat16(), reason="this CPU computes in bfloat16")
def test_an_engine_that_this_cpu_lacks_is_named_at_the_start(tmp_path: Path) -> None:
    environment = {"MODEL_REPOSITORY": str(tmp_path), "PATH": "/usr/bin:/bin", "ENGINE": "openvino:bf16"}
    for command in (["app.py"], ["-m", "converters", "sentence-transformer", "x", "--output", str(tmp_path)]):
        ended = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 1
        [line] = (ended.stdout + ended.stderr).splitlines()
        assert "ENGINE: openvino:bf16 needs a CPU with bfloat16" in line


def test_old_names_go_on_working_and_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAX_QUEUED_ROWS", "7")
    monkeypatch.setenv("TRITON_GRPC_URL", "old:8001")
    monkeypatch.setenv("TRITON_GRPC_ADDRESS", "new:8001")
    monkeypatch.setenv("UNLOAD_LEAST_RECENTLY_USED", "true")
    settings = read_settings()
    assert (settings.max_queued_inputs, settings.triton_grpc_address) == (7, "new:8001")
    assert settings.evict_least_recently_used
    warn_of_old_names()
    assert caplog.messages == [
        "MAX_QUEUED_ROWS is called MAX_QUEUED_INPUTS now; the old name still works",
        "TRITON_GRPC_URL is called TRITON_GRPC_ADDRESS now; the old name is ignored",
        "UNLOAD_LEAST_RECENTLY_USED is called EVICT_LEAST_RECENTLY_USED now; the old name still works",
    ]


def test_old_names_may_be_in_lower_case_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("triton_grpc_url", "old:8001")
    monkeypatch.setenv("max_queued_inputs", "5")
    monkeypatch.setenv("MAX_QUEUED_ROWS", "7")
    settings = read_settings()
    assert (settings.max_queued_inputs, settings.triton_grpc_address) == (5, "old:8001")


def test_a_setting_that_is_gone_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_LOADED_BYTES", "1000")
    with pytest.raises(SettingsError, match=r"MAX_LOADED_BYTES.*MAX_LOADED_MODELS"):
        read_settings()
