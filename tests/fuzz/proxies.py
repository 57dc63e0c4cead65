"""A real nginx and a real HAProxy in front of a port, with few connections to it that all clients share."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import free_port

# Debian's are where only root looks.
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"

NGINX = """
daemon off; user {user}; worker_processes 1; pid {root}/pid; error_log {root}/error.log warn;
events {{ worker_connections 1024; }}
http {{
 access_log off; client_max_body_size 64m;
 client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
 uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
 map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
 upstream server {{ server 127.0.0.1:{port}; keepalive 2; }}
 # As it comes: HTTP/1.0 to the server.
 server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://127.0.0.1:{port}; }} }}
 # The usual lines for connections that are kept.
 server {{ listen 127.0.0.1:{kept}; location / {{
  proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
 # The usual lines for WebSockets.
 server {{ listen 127.0.0.1:{sockets}; location / {{
  proxy_pass http://server; proxy_http_version 1.1; proxy_request_buffering off;
  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }} }}
}}
"""

HAPROXY = """
global
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{front}
  default_backend back
backend back
  http-reuse always
  server one 127.0.0.1:{port} pool-max-conn 2
"""


@contextmanager
def nginx(root: Path, port: int) -> Iterator[dict[str, int]]:
    """Three ports that lead to this one, by name."""
    ports = {f"nginx, {name}": free_port() for name in ("plain", "kept", "sockets")}
    named = {name.removeprefix("nginx, "): number for name, number in ports.items()}
    config = root / "nginx.conf"
    config.write_text(NGINX.format(root=root, port=port, user=getpass.getuser(), **named))
    with _running([_found("nginx"), "-p", str(root), "-c", str(config)], root / "nginx.log", ports):
        yield ports


@contextmanager
def haproxy(root: Path, port: int) -> Iterator[dict[str, int]]:
    """A port that leads to this one."""
    ports = {"HAProxy": free_port()}
    config = root / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, front=ports["HAProxy"]))
    with _running([_found("haproxy"), "-db", "-f", str(config)], root / "haproxy.log", ports):
        yield ports


def _found(name: str) -> str:
    path = shutil.which(name, path=PATH)
    assert path is not None, f"scripts/install requirements-dev.txt installs {name}"
    return path


@contextmanager
def _running(command: list[str], log: Path, ports: dict[str, int]) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for port in ports.values():
                _wait_for(port, process, log)
            yield
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return  # noqa: TRY300 - it listens
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
