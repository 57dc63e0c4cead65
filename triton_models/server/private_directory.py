"""The private directory of one run of Triton: the sockets it answers at, and plain names for what it reads.

No other user can enter it, so whoever reaches Triton is of this user, or root. And Triton's Python backend
starts its stubs by a line for a shell, in which no path may hold anything that a shell reads.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from triton_models.server.processes import SHARED_MEMORY

UNIX = "unix:"
"""Begins addresses that are sockets in the file system, as gRPC and Triton write them."""

NUMBER = 1
"""The port that goes with a socket: Triton wants one, and appends it to the name of gRPC's."""


@dataclass(frozen=True)
class Private:
    """What lies in one such directory; `remove_shared_memory` removes it, by the mark that begins its name.

    models, backends: links to the repository and to the backends. grpc, metrics: "unix:PATH" to listen at.
    """

    models: Path
    backends: Path
    grpc: str
    metrics: str

    @classmethod
    def make(cls, mark: str, root: Path, backends: Path) -> "Private":
        """A new one for the repository `root`.

        In shared memory, which Triton needs anyhow: its path is short and plain wherever the repository
        lies, and it is of this host alone.

        Raises:
            OSError: it cannot be made.
        """
        path = Path(tempfile.mkdtemp(prefix=mark, dir=SHARED_MEMORY))
        made = cls(path / "models", path / "backends", f"{UNIX}{path}/grpc", f"{UNIX}{path}/metrics")
        made.models.symlink_to(root)
        made.backends.symlink_to(backends)
        return made


def socket_path(address: str) -> str | None:
    """The file of an address that is a socket; None for "host:port"."""
    return address.removeprefix(UNIX) if address.startswith(UNIX) else None
