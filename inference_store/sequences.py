"""Sequences of stateful models, where an answer depends on the steps before it.

So each step's description names the step before it, and its record answers only after that step.
"""

from collections import OrderedDict

from inference_store.identity import Description, step

_MOST = 100_000


class Sequences:
    """The last step of each running sequence that passes through this store."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()

    def follow(self, description: Description) -> Description | None:
        """Remember a step, and return its description with the step that it comes `after`, if any.

        If the step continues a sequence that did not begin here, return None, as the steps before it are
        unknown.
        """
        parameters = description.get("parameters", {})
        number = parameters.get("sequence_id")
        model = description["model"]
        running = (model, repr(number))
        if parameters.get("sequence_start") != {"bool": True}:
            if running not in self._last:
                return None
            description = {**description, "after": self._last[running]}
        self._last[running] = step(description)
        self._last.move_to_end(running)
        if parameters.get("sequence_end") == {"bool": True}:
            del self._last[running]
        elif len(self._last) > _MOST:
            self._last.popitem(last=False)
        return description


def in_sequence(description: Description) -> bool:
    """Return whether the request is a step of a sequence; the numbers 0 and "" mean that it is not."""
    number = description.get("parameters", {}).get("sequence_id")
    return number is not None and _plain(number) not in (0, "")


def _plain(number: object) -> object:
    return next(iter(number.values())) if isinstance(number, dict) else number
