"""Ends this process when Triton ends, however that ends, and leaves no shared memory.

Triton's stub notices by itself that Triton is gone, a second or so later, but then it can hang in
its own clean-up for ever, holding Python's lock. So the kernel does it: the process that becomes
Triton holds a pipe open (`server/exec_child.py`), whose end is a SIGKILL to every stub.
Imports nothing of the project.
"""

import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path

VARIABLE = "TRITON_LIFELINE"
"""Names the two ends of the pipe, inherited from Triton: the numbers to read and to write."""


def end_with_triton() -> None:
    """Have the kernel kill this process when Triton ends; nothing where Triton was started without a pipe."""
    numbers = os.environ.pop(VARIABLE, "").split()
    if len(numbers) != 2:
        return
    # An opening of its own: the inherited one is shared by all stubs, and a signal has one receiver.
    own = os.open(f"/proc/self/fd/{numbers[0]}", os.O_RDONLY | os.O_NONBLOCK)
    for number in numbers:
        os.close(int(number))
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with suppress(BlockingIOError):
        # An end of the pipe that came before the signal was asked for.
        os.read(own, 1)
        os.kill(os.getpid(), signal.SIGKILL)


def forget_shared_memory(name: str) -> None:
    """Remove the name of shared memory that Triton and this process have open: it is freed when they end."""
    with suppress(OSError):
        (Path("/dev/shm") / name).unlink()  # noqa: S108 - made by Triton, not by us
