"""The stubs of the embedded Triton: the process of each model, and how it fares.

Triton notices neither that a stub has ended nor that one computes for ever: it calls the model ready.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from triton_models.server.processes import Activity, activity, arguments, children

_REPOSITORY = "--model-repository="


class Stubs:
    """Those of one run of Triton, the process `pid`. Reads nothing but /proc, which never waits."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        named = (word.removeprefix(_REPOSITORY) for word in arguments(pid) if word.startswith(_REPOSITORY))
        self._root = Path(next(named, "/"))
        self._served: dict[int, str] = {}
        self._left: set[int] = set()

    @property
    def left(self) -> int:
        """How many that have ended Triton holds on to, with the threads of their models."""
        return len(self._left)

    def triton(self) -> Activity | None:
        """What Triton's own process does; None where it is gone."""
        return activity(self._pid)

    def find(self) -> None:
        """Learn the processes of models that were loaded since, forget those that Triton has ended.

        Those of a model that ended by themselves are forgotten where it has new ones.
        """
        present = children(self._pid)
        self._served = {pid: served for pid, served in self._served.items() if pid in present}
        new = {
            pid: served
            for pid in present - self._served.keys() - self._left
            if (served := self._model_of(pid))
        }
        for pid, served in list(self._served.items()):
            seen = activity(pid, closely=False)
            if served in new.values() and seen is not None and seen.ended:
                del self._served[pid]
                self._left.add(pid)
        self._served |= new

    def of(self, served: str, *, closely: bool = True) -> list[Activity]:
        """What the processes of a model do, those that have ended by themselves included; see `activity`."""
        seen = (activity(pid, closely=closely) for pid, name in self._served.items() if name == served)
        return [one for one in seen if one is not None]

    def kill(self, served: str) -> None:
        """End the processes of a model at once."""
        for pid, name in self._served.items():
            # The number may be another process's by now.
            if name == served and self._model_of(pid) == served:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _model_of(self, pid: int) -> str | None:
        # triton_python_backend_stub ROOT/SERVED/VERSION/model.onnx ...
        path = Path((arguments(pid) or ["", ""])[1])
        return path.parent.parent.name if path.parent.parent.parent == self._root else None
