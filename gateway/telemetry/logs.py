"""The log: standard error, one line an event, for people or as JSON.

A line holds no text of users, no key and no path: callers of `logging` name none, and what comes from
elsewhere (exceptions, libraries, Triton's last words) is cleaned here. An exception is told by its type and
where it was raised, since its message may quote what it failed on.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
import uvicorn.config

from gateway.settings import Settings
from triton_models.client.requests import REQUEST_ID

OURS = ("app", "gateway", "triton_models")
"""Loggers that LOG_LEVEL=debug opens: what libraries say at that level holds URLs and headers."""

_PATH = re.compile(r"(?<![\w:/.~%-])~?/(?:[^\s/'\"<>:;,|()]+/)+([^\s/'\"<>:;,|()]*)")
_FRAMES = 12
_LINE_ENDS = re.compile(r"\s*[\r\n\u2028\u2029]+\s*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Cleaner:
    """Takes out of a text what no log may hold; secrets: as they may stand in one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may be part of another.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text in one line, without secrets, and of each path the last part only."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = _PATH.sub(r"[...]/\1", text)
        return _CONTROL.sub(" ", _LINE_ENDS.sub(" | ", text.strip()))


class LogFormatter(logging.Formatter):
    """What both forms have in common: the fields of a line."""

    def __init__(self, cleaner: Cleaner) -> None:
        super().__init__()
        self._cleaner = cleaner

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """A record as a line of JSON has it."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._cleaner(record.getMessage()),
        }
        if request_id := REQUEST_ID.get():
            fields["request_id"] = request_id
        fields.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = describe(record.exc_info[1])
        return fields


class JsonFormatter(LogFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return orjson.dumps(self.fields(record), default=str).decode()


class TextFormatter(LogFormatter):
    """Time, level, logger and message, then `name=value` of what else there is."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields = self.fields(record)
        head = (fields.pop(name) for name in ("time", "level", "logger", "message"))
        time, level, logger, message = head
        line = f"{time} {level.upper():7} {logger}: {message}"
        return " ".join((line, *(f"{name}={value}" for name, value in fields.items())))


def describe(error: BaseException) -> str:
    """Types of an exception and of its causes, and where each was raised, the innermost place first."""
    told: list[str] = []
    while error is not None and len(told) < _FRAMES:
        frames = [
            f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        told.append(f"{type(error).__name__}{reason} at " + " < ".join(frames[: -_FRAMES - 1 : -1]))
        hidden = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or hidden  # type: ignore[assignment]
    return "; because of ".join(told)


def set_up_logging(settings: Settings) -> None:
    """Send the log of this process, uvicorn's with it, to standard error; one set up before is left alone."""
    # What is logged goes to the root, in every process that this one starts.
    uvicorn.config.LOGGING_CONFIG["loggers"] = {}
    root = logging.getLogger()
    if root.handlers:
        return
    as_json = (settings.log_format or ("text" if sys.stderr.isatty() else "json")) == "json"
    headers = (header.partition("=")[2] for header in settings.triton_grpc_headers)
    cleaner = Cleaner((*settings.api_keys, *settings.admin_api_keys, *headers))
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(cleaner) if as_json else TextFormatter(cleaner))
    level = settings.log_level.upper()
    root.setLevel(logging.INFO if settings.log_level == "debug" else level)
    root.addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    # Its lines say what the log of requests says.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Lines with the URLs that were asked for. `edge.py` writes one for each request, without.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
