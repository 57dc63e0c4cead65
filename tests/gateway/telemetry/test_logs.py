"""What the log holds, and what it must not: a real server, all kinds of requests and failures."""

import json
import logging
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.telemetry.logs import Cleaner, JsonFormatter, TextFormatter, describe
from tests.conftest import MINILM, ROOT, Server
from tests.support.waiting import wait_until

CANARY = "canary-7f3a"
KEY = "embedding-key-c41d"
ADMIN = "administrators-key-9b02"


@pytest.fixture(scope="module")
def logged(converted_minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("logged")
    shutil.copytree(converted_minilm, root / "repository")
    broken = root / "sources" / "broken" / "model"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text('{"model_type": "bert"}')
    (broken / "modules.json").write_text('[{"type": "a.Module", "path": "/etc/elsewhere"}]')
    settings = {
        "MODEL_SOURCES": str(root / "sources"),
        "API_KEYS": KEY,
        "ADMIN_API_KEYS": ADMIN,
        "LOG_LEVEL": "debug",
        "IMAGE_HOSTS_ALLOWED": "127.0.0.1",
    }
    server = Server(root / "repository", settings, root / "server.log")
    with server.running():
        yield server


def lines(server: Server) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def bother(client: httpx.Client) -> set[str]:
    """Requests of every kind, with the canary wherever a user can write; the ids of their answers."""
    asked: list[tuple[str, object]] = [
        ("/infer_text", {"model_name": MINILM, "text": CANARY}),
        ("/infer_text", {"model_name": MINILM, "text": [CANARY, 5]}),
        ("/infer_text", {"model_name": MINILM, "text": CANARY * 100, "truncate": False}),
        ("/infer_text", {"model_name": MINILM, "text": CANARY, "prompt_name": CANARY}),
        ("/infer", {"model_name": MINILM, "image": f"http://{CANARY}:{CANARY}@127.0.0.1:1/{CANARY}.png"}),
        ("/infer_image", {"model_name": "ViT-B-32", "pretrained": "none", "image": [CANARY]}),
        ("/v1/embeddings", {"model": MINILM, "input": [[1, 99_999_999]]}),
        ("/v1/embeddings", {"model": MINILM, "input": [CANARY], "user": CANARY}),
        (f"/tei/{MINILM}/embed", {"inputs": CANARY}),
        (f"/weaviate/{MINILM}/vectors", {"text": CANARY}),
        ("/embed", {"name": MINILM, "text": CANARY, "image": f"data:image/png;base64,{CANARY}"}),
        (f"/{CANARY}?{CANARY}={CANARY}", {}),
        ("/load_sentence_transformer_model", {"model_name": "broken/model"}),
        ("/load_sentence_transformer_model", {"model_name": "../../etc/passwd"}),
        ("/load_clip_model", {"model_name": "ViT-B-32", "pretrained": "/etc/passwd"}),
    ]
    answers = []
    for headers in (
        {"Authorization": f"Bearer {ADMIN}"},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": CANARY},
    ):
        for path, body in asked:
            answers.append(client.post(path, json=body, headers={**headers, "Cookie": CANARY}))
    answers.append(client.post("/infer", content=b'{"text": "' + CANARY.encode(), headers=headers))
    assert not {answer.status_code for answer in answers} & {500}
    for answer in answers:
        assert ADMIN not in answer.text
        assert KEY not in answer.text
        assert str(ROOT) not in answer.text
    return {answer.headers["x-request-id"] for answer in answers}


def test_nothing_of_users_no_key_and_no_path_is_logged(logged: Server) -> None:
    administrator = {"Authorization": f"Bearer {ADMIN}"}
    with logged.client() as client:
        loaded = client.post(
            "/load_sentence_transformer_model",
            json={"model_name": MINILM},
            headers={**administrator, "X-Request-ID": "the-load"},
        )
        assert loaded.status_code == 200, loaded.text
        ids = bother(client)
        assert logged.process is not None
        triton = next(
            child
            for child in psutil.Process(logged.process.pid).children(recursive=True)
            if "tritonserver" in child.name()
        )
        triton.send_signal(signal.SIGKILL)
        wait_until(lambda: "Triton ended" in logged.log.read_text(), 60)
        ids |= bother(client)
        logged.wait_healthy()
    said = logged.log.read_text()
    # All of it is JSON, and each request left its line.
    found = lines(logged)
    assert ids <= {line.get("request_id") for line in found}
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in found))
    assert any(line.get("request_id") == "the-load" and "MiniLM" in str(line["message"]) for line in found)
    triton_logs = "".join(path.read_text(errors="replace") for path in logged.repository.rglob("triton.log*"))
    for secret in (CANARY, KEY, ADMIN):
        assert secret not in said, next(line for line in said.splitlines() if secret in line)
        assert secret not in triton_logs
    for path in (str(ROOT), str(logged.repository), "/etc/", "site-packages", "/tmp/", "/home/"):
        assert path not in said, next(line for line in said.splitlines() if path in line)


def record(message: str, error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("gateway.test", logging.WARNING, "somewhere", 1, message, (), info)
    made.__dict__["fields"] = fields
    return made


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("opened /srv/models/a b/model.onnx: no", "opened [...]/a b/model.onnx: no"),
        ("at '/home/me/x.py', line 3", "at '[...]/x.py', line 3"),
        ("~/.cache/huggingface/token", "[...]/token"),
        (
            "GET /metrics of http://127.0.0.1:8002/metrics/all",
            "GET /metrics of http://127.0.0.1:8002/metrics/all",
        ),
        ("intfloat/e5-small-v2 is loaded, 3/4 done", "intfloat/e5-small-v2 is loaded, 3/4 done"),
        ("one\n  two\r\nthree\x1b[31m", "one | two | three [31m"),
        ("the key is hunter22 and hunter2", "the key is [secret] and [secret]"),
    ],
)
def test_a_text_is_cleaned(text: str, cleaned: str) -> None:
    assert Cleaner(("hunter2", "hunter22"))(text) == cleaned


def test_an_exception_is_told_without_its_message() -> None:
    def fail() -> None:
        try:
            int(CANARY)
        except ValueError as error:
            raise RuntimeError(CANARY) from error

    try:
        fail()
    except RuntimeError as raised:
        told = describe(raised)
        line = JsonFormatter(Cleaner(())).format(record("failed", raised))
    assert told.startswith(f"RuntimeError at {__name__}:")
    assert "fail < " in told
    assert "; because of ValueError at" in told
    assert CANARY not in line
    assert "/" not in json.loads(line)["error"]
    assert "No such file or directory" in describe(FileNotFoundError(2, "No such file or directory", "/a/b"))
    assert "/a/b" not in describe(FileNotFoundError(2, "No such file or directory", "/a/b"))


def test_the_form_for_people_is_one_line_too() -> None:
    line = TextFormatter(Cleaner(())).format(record("one\ntwo", status=200))
    assert line.endswith("WARNING gateway.test: one | two status=200")
    assert json.loads(JsonFormatter(Cleaner(())).format(record("one", status=200)))["status"] == 200
