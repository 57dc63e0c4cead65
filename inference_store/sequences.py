"""Sequences of stateful models: an answer depends on what the sequence was sent before.

So each step's description names the step it comes after, and its record answers only there.
"""

from collections import OrderedDict

from inference_store.identity import Description, step

_MOST = 100_000


class Sequences:
    """The last step of each running sequence that passes through this store."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()

    def follow(self, description: Description) -> Description | None:
        """The description with the step it comes `after`, where it continues a sequence; remembers it.

        None where it continues a sequence that did not begin here: what its answer depends on is not known.
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
    """Whether the request is a step of a sequence; number 0 and "" say that it is none."""
    number = description.get("parameters", {}).get("sequence_id")
    return number is not None and _plain(number) not in (0, "")


def _plain(number: object) -> object:
    return next(iter(number.values())) if isinstance(number, dict) else number
