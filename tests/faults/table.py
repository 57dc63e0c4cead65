"""Formats the table of the faults' effects."""

from collections.abc import Sequence
from typing import Any

COLUMNS = {
    "fault": "fault",
    "connections": "connections",
    "requests": "requests",
    "right": "right",
    "honest error": "honest errors",
    "connection error": "connections cut",
    "wrong vector": "wrong",
    "hung": "hung",
    "again": "serving again, s",
    "refusal": "refusal (median), s",
    "test": "test",
}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table, one line per fault.

    "serving again" is the time from the fault to the end of the last request that failed because of it.
    """
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "| --- " * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(_cell(key, row) for key in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def _cell(key: str, row: dict[str, Any]) -> str:
    value = row.get(key)
    if key == "test":
        return f"`{str(value).rpartition('/')[2]}`" + ("" if row.get("passed") else " FAILED")
    if isinstance(value, list):
        return spread(value)
    return "" if value is None else f"{value}"


def spread(values: Sequence[float]) -> str:
    """Return the values; if there are more than four, the median, the minimum and the maximum."""
    if len(values) <= 4:
        return ", ".join(f"{value:g}" for value in values)
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:g} ({ordered[0]:g} to {ordered[-1]:g}, {len(ordered)} times)"
