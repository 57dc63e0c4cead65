"""`python -m triton_models.server`: run the PyPI Triton alone, in the foreground, for development.

Everyone who can reach its ports may use it, including every user of this machine.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from triton_models.client.errors import EmbeddedTritonError
from triton_models.repository.repository import Repository
from triton_models.server.embedded import EmbeddedTriton, Ports
from triton_models.server.response_cache import DEFAULT_RESPONSE_CACHE, parse_response_cache


def main() -> int:
    """Read the arguments, serve until Triton ends or a signal arrives, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m triton_models.server", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--response-cache", default=DEFAULT_RESPONSE_CACHE)
    arguments = parser.parse_args()
    try:
        parse_response_cache(arguments.response_cache)
    except ValueError as error:
        parser.error(f"RESPONSE_CACHE {error}")
    try:
        return asyncio.run(_serve(arguments))
    except EmbeddedTritonError as error:
        sys.stderr.write(f"{error}\n")
        return 1


async def _serve(arguments: argparse.Namespace) -> int:
    repository = Repository(arguments.repository)
    triton = EmbeddedTriton(
        repository.root,
        arguments.response_cache,
        ports=Ports(arguments.grpc_port, arguments.metrics_port, arguments.host),
    )
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    addresses = await triton.start()
    sys.stdout.write(
        f"Triton serves {repository.root}, log in {triton.log_path}\n"
        "In a second terminal: "
        f"MODEL_REPOSITORY={repository.root} TRITON_GRPC_ADDRESS={addresses.grpc} scripts/serve\n"
    )
    sys.stdout.flush()
    ended, asked = asyncio.ensure_future(triton.wait()), asyncio.ensure_future(stopped.wait())
    await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if ended.done():
        sys.stderr.write(f"Triton ended; its log says:\n{triton.log_tail()}\n")
        return 1
    await triton.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
