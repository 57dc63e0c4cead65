"""Keys and tokens: in the processes that need them, and nowhere that another process finds them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import ROOT, Server
from tests.support.app_without_triton import bearer
from tests.support.tiny_repository import AS_NOBODY

SECRET = "open-sesame"
ENVIRONMENT = {
    "API_KEYS": f"{SECRET}-1",
    # Settings may be written in small letters.
    "admin_api_keys": f"{SECRET}-2",
    "TRITON_GRPC_HEADERS": f"key={SECRET}-3",
    "HF_TOKEN": f"{SECRET}-4",
}
WORKERS = ("app.py", "--workers", "2", "--timeout-worker-healthcheck", "120")
UVICORN = ("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}")


@pytest.fixture(params=[("app.py",), WORKERS, UVICORN], ids=["one process", "workers", "uvicorn"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "repository", ENVIRONMENT, tmp_path / "server.log", request.param)
    with server.running():
        yield server


def test_linux_shows_no_key_of_any_process_that_serves(guarded: Server) -> None:
    assert guarded.process is not None
    server = psutil.Process(guarded.process.pid)
    family = [server, *server.children(recursive=True)]
    assert any(one.name() == "tritonserver" for one in family)
    for one in family:
        # psutil would leave out what is no variable.
        shown = Path(f"/proc/{one.pid}/environ").read_text(errors="replace")
        assert "MODEL_REPOSITORY=" in shown
        assert SECRET not in shown, one.cmdline()
    # They hold all the same, in every worker.
    for key, status in ((f"{SECRET}-1", 403), (f"{SECRET}-2", 404), (f"{SECRET}-4", 401), ("", 401)):
        for _ in range(4):
            url, body = f"{guarded.url}/unload_model", {"model_name": "no/such"}
            answer = httpx.post(url, json=body, headers=bearer(key), trust_env=False)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize("trust", [False, True])
def test_where_code_of_models_runs_the_server_s_memory_is_its_own(trust: bool) -> None:
    # Changing the user does the same, which is taken back.
    begin = AS_NOBODY + "import ctypes; ctypes.CDLL(None).prctl(4, 1); "
    program = f"from app import start_settings; {begin}start_settings(); print(flush=True); input()"
    # Its settings need a directory that everybody may write to; nothing is put there.
    environment = {
        **os.environ,
        "TRUST_REMOTE_CODE": str(trust),
        "MODEL_REPOSITORY": tempfile.gettempdir(),
    }
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"\n"
        read = f"{AS_NOBODY}open('/proc/{one.pid}/environ', 'rb').read(1)"
        other = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=False)
        assert (other.returncode != 0) is trust, other.stderr
        one.communicate(b"\n")
