"""A TCP proxy that causes network faults: it cuts, stalls, slows down or refuses connections."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST, not FIN."""


class Proxy:
    """Listens on a loopback port and passes bytes to and from another port, in a separate thread.

    All methods may be called from any thread. They apply to the connections of that moment; `stall`,
    `refuse`, `delay` and `chunk` apply to later connections too.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self.port = port
        self.delay = 0.0
        """Seconds before each chunk is passed on."""
        self.chunk = CHUNK
        """Most bytes passed on at once; with a delay, this limits the bandwidth."""
        self._cut_after: int | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self.cuts = 0
        """Number of answers that were cut."""

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def accept(self) -> None:
        """Accept new connections; after `refuse`, on the same port."""
        self._do(self._listen)

    def refuse(self) -> None:
        """Make the kernel refuse new connections; existing ones stay open."""
        self._do(self._close_listener)

    def stall(self) -> None:
        """Pass nothing on; connections stay open and new ones are accepted."""
        self._soon(self._passing.clear)

    def resume(self) -> None:
        """Pass bytes on again, starting with those that arrived during the stall."""
        self._soon(self._passing.set)

    def forget(self) -> None:
        """Stall the present connections for ever; new ones work, as with a router that lost its table."""

        def swap() -> None:
            self._passing.clear()
            self._passing = asyncio.Event()
            self._passing.set()

        self._soon(swap)

    def cut(self) -> None:
        """Reset all connections, on both sides."""
        self._soon(self._reset_all)

    def cut_in_answer(self, after: int) -> None:
        """Reset all connections after `after` bytes of the next answers were passed on."""

        def set_limit() -> None:
            self._cut_after = after

        self._soon(set_limit)

    def half_close(self) -> None:
        """Send FIN to both sides of every connection, and continue to read."""

        def close() -> None:
            for writer in self._open:
                with suppress(OSError, RuntimeError):
                    writer.write_eof()

        self._soon(close)

    def _soon(self, work: Callable[[], None]) -> None:
        async def run() -> None:
            work()

        self._do(run)

    def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in list(self._open):
            peer: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        passing = self._passing
        pumps = {
            asyncio.ensure_future(self._pump(reader, behind[1], passing, answers=False)),
            asyncio.ensure_future(self._pump(behind[0], writer, passing, answers=True)),
        }
        self._open |= {writer, behind[1]}
        self._tasks |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._tasks -= pumps
        self._open -= {writer, behind[1]}
        for each in (writer, behind[1]):
            each.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passing: asyncio.Event,
        *,
        answers: bool,
    ) -> None:
        with suppress(OSError, RuntimeError):
            while data := await reader.read(self.chunk):
                await passing.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                last = False
                if answers and self._cut_after is not None:
                    data = data[: self._cut_after]
                    self._cut_after -= len(data)
                    last = self._cut_after == 0
                writer.write(data)
                await writer.drain()
                if last:
                    self._cut_after = None
                    self.cuts += 1
                    # Give the written bytes time to arrive: a reset discards those that still wait.
                    await asyncio.sleep(0.01)
                    self._reset_all()
