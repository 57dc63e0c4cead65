"""A small HTTP server that plays the embedding server, with fixed vectors and failures on request."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conftest import MINILM


class Played(ThreadingHTTPServer):
    """Answers every text and image with one vector; fails, stalls or hangs up at given request numbers."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.loads: list[dict[str, Any]] = []
        self.loaded = True
        self.forgets_images = False
        self.fails: frozenset[int] = frozenset()
        self.hangs_up: frozenset[int] = frozenset()
        self.stalled_until = 0.0
        self.stall: tuple[int, float] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def texts(self) -> list[str]:
        return self.inputs("text")

    def inputs(self, name: str) -> list[str]:
        return [one for body in self.bodies for one in listed(body.get(name))]

    def statistics(self) -> dict[str, Any]:
        """Return statistics: a quarter of the requests from the cache, the others in batches of three."""
        number = len(self.bodies)
        stats = {"cache_hit": {"count": number}, "cache_miss": {"count": 3 * number}}
        names = (MINILM.replace("/", "_"), "ViT-B-32_tag_image_encoder", "ViT-B-32_tag_text_encoder")
        mine = {"inference_count": 3 * number, "execution_count": number, "inference_stats": stats}
        other = {"name": "other", "inference_count": 9, "execution_count": 9, "inference_stats": stats}
        return {"model_stats": [*({"name": name, **mine} for name in names), other]}


def listed(inputs: str | list[str] | None) -> list[str]:
    return [inputs] if isinstance(inputs, str) else inputs or []


class Handler(BaseHTTPRequestHandler):
    """Handles one connection, which is kept open."""

    protocol_version = "HTTP/1.1"
    server: Played

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.answer(200, self.server.statistics())
        else:
            self.answer(404, {"detail": "no such route"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path in ("/load_sentence_transformer_model", "/load_clip_model"):
            self.server.loads.append(body)
            self.server.loaded = True
            self.answer(200, {"message": "loaded"})
            return
        if not self.server.loaded:
            self.answer(404, {"detail": "not loaded"})
            return
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.keys.add(self.headers["Authorization"])
            if self.server.stall and number == self.server.stall[0]:
                self.server.stalled_until = time.monotonic() + self.server.stall[1]
        time.sleep(max(0.0, self.server.stalled_until - time.monotonic()))
        if number in self.server.hangs_up:
            self.close_connection = True
        elif number in self.server.fails:
            self.answer(503, {"detail": "Triton is not ready"})
        else:
            texts, images = ([[0.6, 0.8, 0.0]] * len(listed(body.get(name))) for name in ("text", "image"))
            answers = {"text_embeddings": texts or None, "image_embeddings": images or None}
            if self.server.forgets_images:
                answers["image_embeddings"] = None
            if self.path != "/infer":
                answers = {"embedding": texts or images}
            self.answer(200, {**answers, "processingTimeMs": 1.5})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content, separators=(",", ":")).encode()
        head = (
            f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.wfile.write(head.encode() + body)


@contextmanager
def played() -> Iterator[Played]:
    with Played() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
