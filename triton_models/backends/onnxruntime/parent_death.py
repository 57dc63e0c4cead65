"""End this process when Triton ends, however that ends, and leave no shared memory behind.

Triton's stub itself notices after about a second that Triton is gone. But it can then hang forever in its own
clean-up, holding Python's lock. So the kernel ends it: the process that becomes Triton holds a pipe open
(`server/exec_child.py`), and when the pipe closes the kernel sends every stub a SIGKILL.
This module imports nothing of the project.
"""

import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path

VARIABLE = "TRITON_LIFELINE"
"""The environment variable with the two ends of the pipe inherited from Triton: read and write descriptor."""


def end_with_triton() -> None:
    """Have the kernel kill this process when Triton ends; do nothing if Triton was started without a pipe."""
    numbers = os.environ.pop(VARIABLE, "").split()
    if len(numbers) != 2:
        return
    # This opens the pipe again, because all stubs share the inherited file description, which can have only
    # one receiver of signals.
    own = os.open(f"/proc/self/fd/{numbers[0]}", os.O_RDONLY | os.O_NONBLOCK)
    for number in numbers:
        os.close(int(number))
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with suppress(BlockingIOError):
        # The pipe may have been closed before the signal was requested.
        os.read(own, 1)
        os.kill(os.getpid(), signal.SIGKILL)


def forget_shared_memory(name: str) -> None:
    """Unlink shared memory that Triton and this process have open, so that it is freed when they end."""
    with suppress(OSError):
        (Path("/dev/shm") / name).unlink()  # noqa: S108 - made by Triton, not by us
