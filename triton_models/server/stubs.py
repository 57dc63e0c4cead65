"""The stubs of the embedded Triton: the processes of its models.

Triton does not notice when a stub has ended or computes forever; it goes on calling the model ready.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from triton_models.server.processes import ProcessActivity, activity, arguments, children

_REPOSITORY = "--model-repository="


class Stubs:
    """The stubs of one run of Triton, the process `pid`. Only /proc is read, which never blocks."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        named = (word.removeprefix(_REPOSITORY) for word in arguments(pid) if word.startswith(_REPOSITORY))
        self._root = Path(next(named, "/"))
        self._served: dict[int, str] = {}
        self._left: set[int] = set()

    @property
    def left(self) -> int:
        """The number of ended stubs that Triton has not released, with the threads of their models."""
        return len(self._left)

    def triton(self) -> ProcessActivity | None:
        """Return the activity of Triton's own process, or None if it is gone."""
        return activity(self._pid)

    def find(self) -> None:
        """Find the processes of models loaded since the last call, and forget those that Triton has ended.

        Processes that ended by themselves are forgotten once their model has new ones.
        """
        present = children(self._pid)
        self._served = {pid: triton_name for pid, triton_name in self._served.items() if pid in present}
        new = {
            pid: triton_name
            for pid in present - self._served.keys() - self._left
            if (triton_name := self._model_of(pid))
        }
        for pid, triton_name in list(self._served.items()):
            seen = activity(pid, closely=False)
            if triton_name in new.values() and seen is not None and seen.ended:
                del self._served[pid]
                self._left.add(pid)
        self._served |= new

    def of(self, triton_name: str, *, closely: bool = True) -> list[ProcessActivity]:
        """Return the activity of a model's processes, including those that ended by themselves.

        Args:
            triton_name: Name of the model in Triton.
            closely: See `activity`.
        """
        seen = (activity(pid, closely=closely) for pid, name in self._served.items() if name == triton_name)
        return [one for one in seen if one is not None]

    def kill(self, triton_name: str) -> None:
        """Kill the processes of a model at once."""
        for pid, name in self._served.items():
            # The id may belong to another process by now.
            if name == triton_name and self._model_of(pid) == triton_name:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _model_of(self, pid: int) -> str | None:
        # A stub's command line is: triton_python_backend_stub ROOT/NAME/VERSION/model.onnx ...
        path = Path((arguments(pid) or ["", ""])[1])
        return path.parent.parent.name if path.parent.parent.parent == self._root else None
