"""A Hugging Face Hub of one repository, as much of its HTTP API as a download uses."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class TinyHub:
    """Serves `files` (path to content) as the only commit of `repo` on loopback; `url` is its endpoint."""

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.commit = hashlib.sha1(repo.encode(), usedforsecurity=False).hexdigest()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repo, self.commit, files))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(repo: str, commit: str, files: dict[str, bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            api, resolve = f"/api/models/{repo}", f"/{repo}/resolve/{commit}/"
            if path.startswith(f"{api}/tree/{commit}"):
                self.answer(200, json.dumps([entry(name) for name in files]).encode())
            elif path in (api, f"{api}/revision/main", f"{api}/revision/{commit}"):
                self.answer(200, json.dumps(info()).encode())
            elif path.startswith(f"{api}/revision/"):
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                content = files[path.removeprefix(resolve)]
                self.answer(200, content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    def etag(content: bytes) -> str:
        return hashlib.sha1(content, usedforsecurity=False).hexdigest()

    def info() -> dict[str, object]:
        return {
            "id": repo,
            "modelId": repo,
            "sha": commit,
            "siblings": [{"rfilename": name} for name in files],
        }

    def entry(name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(files[name]), "oid": etag(files[name])}

    return Handler
