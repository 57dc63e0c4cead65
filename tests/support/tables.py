"""Tables of the documentation whose rows are what tests see.

A test compares its row. With the environment variable UPDATE_TABLES=1 it writes the row instead, to be read
before it is committed.
"""

import os
import tempfile
from pathlib import Path

from filelock import FileLock

MODELS = Path(__file__).parents[2] / "docs" / "reference" / "models.md"

_LONGEST = 240
"""Characters of a cell; longer ones are cut."""


def check_row(heading: str, name: str, seen: str) -> None:
    """Compare the row of `name` in the table below `heading` with what was seen, or write it."""
    text = seen.replace("|", "/").replace("<", "&lt;")
    row = f"| {name} | {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'} |"
    if os.environ.get("UPDATE_TABLES") != "1":
        assert row in _section(MODELS.read_text(), heading), f"docs/reference/models.md should hold: {row}"
        return
    with FileLock(Path(tempfile.gettempdir()) / "models.md.lock"):
        content = MODELS.read_text()
        before = _section(content, heading)
        kept = [line for line in before if not line.startswith(f"| {name} |")]
        rows = sorted([*(line for line in kept if _is_row(line)), row], key=str.lower)
        head = [line for line in kept if not _is_row(line)]
        place = next(number for number, line in enumerate(head) if line.startswith("| ---")) + 1
        after = [*head[:place], *rows, *head[place:]]
        MODELS.write_text(content.replace("\n".join(before), "\n".join(after)))


def _section(content: str, heading: str) -> list[str]:
    """Return the lines below a heading."""
    lines = content.split("\n")
    first = lines.index(f"## {heading}") + 1
    rest = (number for number, line in enumerate(lines[first:], first) if line.startswith("## "))
    return lines[first : next(rest, len(lines))]


def _is_row(line: str) -> bool:
    return line.startswith("| ") and not line.startswith(("| ---", "| name |"))
