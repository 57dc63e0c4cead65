"""One run of the embedded Triton as a child process: start, watch, stop.

Sharing and restarting Triton is the task of `owner.py`.
"""

import asyncio
import hashlib
import os
import platform
import re
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from triton_models.client.client import TritonClient
from triton_models.client.errors import EmbeddedTritonError
from triton_models.server.binary import find_triton
from triton_models.server.otel import trace_arguments
from triton_models.server.private_directory import NUMBER, Private
from triton_models.server.processes import kill_marked, remove_shared_memory
from triton_models.server.response_cache import cache_arguments, parse_response_cache

START_SECONDS = 60.0
EXIT_SECONDS = 5
"""The time that Triton may take to stop before it is killed; with a dead stub it takes all of that time."""

CRASH_POLL_SECONDS = 0.25
"""The interval between two searches of the log for a crash."""

_CRASHED = re.compile(rb"^Signal \((6|11)\) received\.", re.MULTILINE)
"""The first line that Triton's handler of SIGABRT and SIGSEGV writes."""

_READY_POLL_SECONDS = 0.05
_EXEC_CHILD = Path(__file__).parent / "exec_child.py"


@dataclass(frozen=True)
class Addresses:
    """The addresses of a Triton, as "host:port" or "unix:PATH".

    Attributes:
        grpc: Address of its gRPC endpoint.
        metrics: Address of its metrics; None if not known.
        pid: Process id of an embedded Triton; None for any other.
    """

    grpc: str
    metrics: str | None
    pid: int | None = None


class Ports(NamedTuple):
    """The ports on the interface with the address `host`; 0 stands for any free port."""

    grpc: int
    metrics: int
    host: str = "127.0.0.1"


def state_directory(repository_root: Path) -> Path:
    """Return the directory of this host's Triton files; hosts may share a repository but not a Triton."""
    return repository_root / ".state" / "triton" / platform.node()


def check_embedded(repository_root: Path, response_cache: str) -> None:
    """Check that a Triton could be started for `repository_root`.

    Raises:
        EmbeddedTritonError: Triton cannot run on this machine, or not with this RESPONSE_CACHE.
    """
    binary = find_triton(state_directory(repository_root.absolute()) / "backends")
    cache_arguments(parse_response_cache(response_cache), binary.caches)


class EmbeddedTriton:
    """A Triton that serves `repository_root`; `owner.py` starts at most one at a time on it.

    Args:
        repository_root: Directory of the model repository.
        response_cache: Value of RESPONSE_CACHE.
        ports: TCP ports to listen on, which everyone who can reach them may use; None for sockets that no
            other user can reach.
    """

    def __init__(self, repository_root: Path, response_cache: str, *, ports: Ports | None = None) -> None:
        self._root = repository_root.absolute()
        self._cache = parse_response_cache(response_cache)
        self._ports = ports
        self._directory = state_directory(self._root)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def mark(self) -> str:
        """The prefix of all names in shared memory, which is in the arguments of this Triton's processes."""
        identity = f"{platform.node()} {os.getuid()} {self._root}"
        return f"embedding-{hashlib.sha256(identity.encode()).hexdigest()[:12]}-"

    @property
    def pid(self) -> int:
        """The process id; only available after `start`."""
        assert self._process is not None
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The log of Triton and its stubs; that of the previous run is beside it as `triton.log.1`."""
        return self._directory / "triton.log"

    async def start(self) -> Addresses:
        """Start Triton and wait until it answers.

        Raises:
            EmbeddedTritonError: Triton cannot run here or does not come up. If it was started, the message
                holds the last lines of its log.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        binary = await asyncio.to_thread(find_triton, self._directory / "backends")
        await asyncio.to_thread(self._remove_leftovers)
        private = await asyncio.to_thread(Private.make, self.mark, self._root, binary.backends)
        addresses, listening = self._listen(private)
        arguments = [
            *self._arguments(private),
            *listening,
            *cache_arguments(self._cache, binary.caches),
        ]
        self._rotate_log()
        with self.log_path.open("ab") as log:
            # Triton gets a session of its own: Ctrl-C in a terminal reaches the gateway, which then stops
            # Triton.
            self._process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", "-S", str(_EXEC_CHILD), str(os.getpid()), str(binary.server)],
                *arguments,
                env=binary.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            await self._wait_ready(addresses.grpc)
        except BaseException:
            await self.kill()
            raise
        return replace(addresses, pid=self.pid)

    async def wait(self) -> int:
        """Wait until Triton ends and return its exit status, which is negative for a signal.

        A Triton whose log tells of a crash is killed. Its signal handler can hang forever, in a process that
        reports itself live, computes nothing, and whose memory cannot be trusted.
        """
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        seen = 0
        try:
            while not (await asyncio.wait((ended,), timeout=CRASH_POLL_SECONDS))[0]:
                crashed, seen = await asyncio.to_thread(self._says_it_crashed, seen)
                if crashed:
                    await self.kill()
            return ended.result()
        finally:
            ended.cancel()

    async def stop(self) -> None:
        """End Triton with SIGTERM, then kill whatever of it is left."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), EXIT_SECONDS + 1)
        await self.kill()

    async def kill(self) -> None:
        """Kill Triton and its stubs at once, and remove their shared memory."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.to_thread(remove_shared_memory, self.mark)

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _says_it_crashed(self, seen: int) -> tuple[bool, int]:
        """Return whether the log's complete lines from byte `seen` on tell of a crash, and where they end."""
        with suppress(OSError), self.log_path.open("rb") as log:
            log.seek(seen)
            new = log.read()
            end = new.rfind(b"\n") + 1
            return _CRASHED.search(new, 0, end) is not None, seen + end
        return False, seen

    def _listen(self, private: Private) -> tuple[Addresses, list[str]]:
        """Return the addresses that Triton will have, and the arguments that make it listen there."""
        if self._ports is None:
            places = ((private.grpc, NUMBER), (private.metrics, NUMBER))
            # Triton appends the number to the name of the gRPC socket, but not to that of the metrics.
            addresses = Addresses(f"{private.grpc}:{NUMBER}", private.metrics)
        else:
            grpc, metrics = _free_ports((self._ports.grpc, self._ports.metrics))
            places = ((self._ports.host, grpc), (self._ports.host, metrics))
            addresses = Addresses(f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}")
        return addresses, [
            f"--{what}-{part}={value}"
            for what, place in zip(("grpc", "metrics"), places, strict=True)
            for part, value in zip(("address", "port"), place, strict=True)
        ]

    def _arguments(self, private: Private) -> list[str]:
        return [
            f"--model-repository={private.models}",
            "--model-control-mode=explicit",
            # The repository's configurations are complete; completing them would start every stub twice.
            "--disable-auto-complete-config",
            # A single model that fails to load must not make the server look dead.
            "--strict-readiness=false",
            "--allow-http=false",
            f"--backend-directory={private.backends}",
            f"--backend-config=python,shm-region-prefix-name={self.mark}",
            f"--exit-timeout-secs={EXIT_SECONDS}",
            *trace_arguments(os.environ),
        ]

    def _remove_leftovers(self) -> None:
        kill_marked(self.mark)
        remove_shared_memory(self.mark)

    def _rotate_log(self) -> None:
        with suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_name("triton.log.1"))

    async def _wait_ready(self, address: str) -> None:
        assert self._process is not None
        async with TritonClient(address) as client:
            deadline = asyncio.get_running_loop().time() + START_SECONDS
            while not await client.server_ready(1.0):
                if self._process.returncode is not None:
                    raise EmbeddedTritonError(
                        f"Triton ended while starting; its log says:\n{self.log_tail()}"
                    )
                if asyncio.get_running_loop().time() > deadline:
                    raise EmbeddedTritonError(
                        f"Triton did not answer within {START_SECONDS:g} s; its log says:\n{self.log_tail()}"
                    )
                await asyncio.sleep(_READY_POLL_SECONDS)


def _free_ports(wanted: tuple[int, int]) -> list[int]:
    """Return the wanted ports of the loopback interface, with a port that is free now in place of each 0."""
    sockets, ports = [], []
    try:
        for port in wanted:
            if port == 0:
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", 0))
            ports.append(port or sockets[-1].getsockname()[1])
    finally:
        for each in sockets:
            each.close()
    return ports
