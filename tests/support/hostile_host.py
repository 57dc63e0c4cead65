"""An HTTP server that plays the hosts of images, good ones and hostile ones, one per path."""

import functools
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.pictures import PICTURES, huge_png

REDIRECTS = {
    "/to-file": "file:///etc/passwd",
    "/to-ftp": "ftp://example.com/a.png",
    "/to-loopback": "http://127.0.0.1:{other}/png",
    "/to-loopback-name": "http://localhost:{other}/png",
    "/to-metadata": "http://169.254.169.254/latest/meta-data/",
    "/to-ipv6-loopback": "http://[::1]:{other}/png",
    "/to-ipv6-mapped": "http://[::ffff:127.0.0.1]:{other}/png",
    "/to-ipv6-metadata": "http://[::ffff:a9fe:a9fe]/",
    "/to-decimal": "http://2130706433:{other}/png",
    "/to-octal": "http://0177.0.0.1:{other}/png",
    "/to-short": "http://127.1:{other}/png",
    "/to-zero": "http://0.0.0.0:{other}/png",
    "/to-credentials": "http://user:secret@127.0.0.2:{port}/png",
    "/to-nothing": "http://",
    "/to-self": "/to-self",
    "/to-other": "/to-self-again",
    "/to-self-again": "/to-other",
    "/once": "/png",
    "/twice": "http://127.0.0.2:{port}/once",
}


@functools.cache
def gzip_bomb() -> bytes:
    """Return 64 MB of zeros in gzip, compressed once, since compression takes longer than a fetch may."""
    return gzip.compress(bytes(1 << 26), 1)


class HostileHost(ThreadingHTTPServer):
    """Listens on 127.0.0.2, which the tests allow, or on 127.0.0.1, which they do not."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: str, other: int) -> None:
        super().__init__((address, 0), Handler)
        self.other = other
        self.paths: list[str] = []
        self.cookies: list[str | None] = []
        self.hosts: list[str | None] = []
        self.busy = 0
        self.most_busy = 0
        self.sent = 0
        self.released = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Handles one connection."""

    protocol_version = "HTTP/1.1"
    server: HostileHost

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.paths.append(self.path)
            self.server.cookies.append(self.headers["Cookie"])
            self.server.hosts.append(self.headers["Host"])
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            if path in REDIRECTS:
                place = REDIRECTS[path].format(port=self.server.server_port, other=self.server.other)
                self.answer(302, b"", Location=place)
            else:
                getattr(self, "play_" + path.strip("/").replace("-", "_").replace(".", "_"), self.missing)()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def missing(self) -> None:
        self.answer(404, b"<html>no such picture</html>")

    def play_png(self) -> None:
        self.answer(200, PICTURES["png"](), Content_Type="text/html", Set_Cookie="a=b; Path=/")

    def play_slow_png(self) -> None:
        time.sleep(0.3)
        self.play_png()

    def play_held_png(self) -> None:
        """Answer when the test releases it."""
        self.server.released.wait(300)
        self.play_png()

    def play_page(self) -> None:
        self.answer(200, b"<html>an image, so they say</html>", Content_Type="image/png")

    def play_cut_jpeg(self) -> None:
        self.answer(200, PICTURES["jpeg"]()[:-700], Content_Type="image/jpeg")

    def play_bomb(self) -> None:
        self.answer(200, huge_png(50_000, 50_000))

    def play_empty(self) -> None:
        self.answer(200, b"")

    def play_no_content(self) -> None:
        self.answer(204, b"")

    def play_gzip(self) -> None:
        self.answer(200, gzip.compress(PICTURES["png"]()), Content_Encoding="gzip")

    def play_gzip_bomb(self) -> None:
        self.answer(200, gzip_bomb(), Content_Encoding="gzip")

    def play_brotli(self) -> None:
        self.answer(200, b"not asked for", Content_Encoding="br")

    def play_endless(self) -> None:
        """Send a gigabyte without a length."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for _ in range(1 << 14):
            self.server.sent += self.wfile.write(bytes(1 << 16))

    def play_long(self) -> None:
        """Announce a gigabyte."""
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 30))
        self.end_headers()
        self.close_connection = True
        self.wfile.write(bytes(1 << 16))
        time.sleep(1)

    def play_trickle(self) -> None:
        """Send one byte a second."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.close_connection = True
        for _ in range(20):
            self.wfile.write(b"x")
            time.sleep(1)

    def play_silence(self) -> None:
        self.close_connection = True
        time.sleep(20)

    def play_hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def play_half(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(PICTURES["png"]()[:500])
        self.close_connection = True

    def play_not_http(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        self.close_connection = True

    def play_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * (1 << 22) + b"\r\n\r\n")
        self.close_connection = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hostile_hosts() -> Iterator[tuple[HostileHost, HostileHost]]:
    """Run the allowed host and the forbidden host; yield them in this order."""
    with HostileHost("127.0.0.1", 0) as forbidden, HostileHost("127.0.0.2", forbidden.server_port) as allowed:
        threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,)) for server in (forbidden, allowed)
        ]
        for thread in threads:
            thread.start()
        try:
            yield allowed, forbidden
        finally:
            for server in (forbidden, allowed):
                server.shutdown()
            for thread in threads:
                thread.join()
