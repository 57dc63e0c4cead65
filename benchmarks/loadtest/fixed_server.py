"""A server that computes nothing, to find the limit of the load test itself.

    python -m benchmarks.loadtest.fixed_server --port 8687
    python benchmark.py --url http://127.0.0.1:8687

The server answers each request with the same vector of 384 numbers, about 8 KB of JSON, as soon as it has
read the request. It takes only single texts, and finds the end of a request by the last byte of its JSON.
"""

import argparse
import asyncio
import json
import random
from typing import cast

import uvloop


def answer() -> bytes:
    """Build the answer to every request, with the headers that the real server sends."""
    draw = random.Random(1)
    vector = [draw.gauss(0, 0.05) for _ in range(384)]
    fields = {"text_embeddings": [vector], "image_embeddings": None, "processingTimeMs": 0.01}
    body = json.dumps(fields, separators=(",", ":")).encode()
    head = "HTTP/1.1 200 OK\r\nserver: fixed\r\ncontent-type: application/json\r\ncontent-length: "
    return b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body)


class FixedAnswer(asyncio.Protocol):
    """One connection of a client."""

    ANSWER = answer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answer the request once it is complete."""
        self._received += data
        if self._received.startswith(b"GET ") or self._received.endswith(b"}"):
            self._received = b""
            self._transport.write(self.ANSWER)


async def serve(port: int) -> None:
    """Serve until the end of the process."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(FixedAnswer, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8687)
    uvloop.run(serve(parser.parse_args().port))
