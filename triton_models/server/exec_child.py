"""Become Triton, which the kernel kills when its parent process ends, however that ends.

Triton inherits a pipe that nobody else writes to. Its stubs end when the pipe closes
(`backends/onnxruntime/parent_death.py`).

This script runs on Linux only. Its arguments are the parent's process id and a command. It imports nothing
of the project.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for a SIGKILL at the parent's death, then replace this process by the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit("the kernel does not end children with their parent (prctl failed)")
    # The parent may have ended before the call above.
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")
    pipe = os.pipe()
    for end in pipe:
        os.set_inheritable(end, True)
    os.environ["TRITON_LIFELINE"] = f"{pipe[0]} {pipe[1]}"
    os.execv(command[0], command)  # noqa: S606 - a command built by the caller, no shell


main()
