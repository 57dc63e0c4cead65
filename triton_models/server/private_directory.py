"""The private directory of one run of Triton: its sockets, and links with plain names to its directories.

No other user can enter it, so only this user and root can reach Triton. The links are needed because Triton's
Python backend starts its stubs with a shell command, whose paths may hold no special character of the shell.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from triton_models.server.processes import SHARED_MEMORY

UNIX = "unix:"
"""The prefix of an address that is a socket in the file system, in gRPC and in Triton."""

NUMBER = 1
"""The port beside a socket: Triton requires one, and appends it to the name of the gRPC socket."""


@dataclass(frozen=True)
class Private:
    """The entries of a private directory, which `remove_shared_memory` removes by its name's prefix.

    Attributes:
        models: Link to the model repository.
        backends: Link to the directory of backends.
        grpc: "unix:PATH" of the gRPC socket, without the number that Triton appends.
        metrics: "unix:PATH" of the metrics socket.
    """

    models: Path
    backends: Path
    grpc: str
    metrics: str

    @classmethod
    def make(cls, mark: str, root: Path, backends: Path) -> "Private":
        """Make a new directory for the repository `root`, whose name begins with `mark`.

        It is made in shared memory, which Triton needs anyway. So its path is short and plain wherever the
        repository is, and it belongs to this host alone.

        Raises:
            OSError: The directory cannot be made.
        """
        path = Path(tempfile.mkdtemp(prefix=mark, dir=SHARED_MEMORY))
        made = cls(path / "models", path / "backends", f"{UNIX}{path}/grpc", f"{UNIX}{path}/metrics")
        made.models.symlink_to(root)
        made.backends.symlink_to(backends)
        return made


def socket_path(address: str) -> str | None:
    """Return the path of an address that is a socket, or None for "host:port"."""
    return address.removeprefix(UNIX) if address.startswith(UNIX) else None
