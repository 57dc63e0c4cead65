"""A front end reduced to its Triton: `python -m tests.support.triton_worker REPOSITORY`.

Says on stdout, one JSON object a line, where Triton answers whenever that changes; `restart` on
stdin starts Triton again; ends at the end of stdin or on SIGTERM.
"""

import asyncio
import json
import signal
import sys
import threading
from pathlib import Path

from triton_models.client.errors import TritonUnavailable
from triton_models.server.triton import Triton


async def main() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    commands: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.put_nowait, line.strip())
        loop.call_soon_threadsafe(done.set)

    # A thread that blocks on stdin must not keep the process from ending.
    threading.Thread(target=read, daemon=True).start()
    async with Triton(Path(sys.argv[1]), "local:1048576") as triton:
        said = None
        while not done.is_set():
            if not commands.empty():
                await triton.restart()
                commands.get_nowait()
            try:
                address = triton.client.url
            except TritonUnavailable:
                address = None
            if (state := (address, triton.generation)) != said:
                said = state
                sys.stdout.write(json.dumps({"grpc": address, "generation": triton.generation}) + "\n")
                sys.stdout.flush()
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main())
