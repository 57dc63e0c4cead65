"""A Hugging Face Hub of one repository, as much of its HTTP API as a download uses."""

import hashlib
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]


class TinyHub:
    """Serves `files` (path to content) as the only commit of `repo` on loopback; `url` is its endpoint."""

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.repo = repo
        self.files = files
        self.commit = _digest(repo.encode())
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str) -> Answer:
        api, resolve = f"/api/models/{self.repo}", f"/{self.repo}/resolve/{self.commit}/"
        if path.startswith(f"{api}/tree/{self.commit}"):
            return Answer(200, json.dumps([self._entry(name) for name in self.files]).encode(), {})
        if path in (api, f"{api}/revision/main", f"{api}/revision/{self.commit}"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": self.repo, "modelId": self.repo, "sha": self.commit, "siblings": siblings}
            return Answer(200, json.dumps(info).encode(), {})
        if path.startswith(resolve) and path.removeprefix(resolve) in self.files:
            content = self.files[path.removeprefix(resolve)]
            return Answer(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": self.commit})
        code = "RevisionNotFound" if path.startswith(f"{api}/revision/") else "RepoNotFound"
        return Answer(404, b"{}", {"X-Error-Code": code})

    def _entry(self, name: str) -> dict[str, object]:
        content = self.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _handler(hub: TinyHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = hub.answer(self.path.partition("?")[0])
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer.body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
