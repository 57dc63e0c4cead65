"""Logging to standard error: one line per event, as text or JSON.

A line contains no user text, no key and no path. The gateway's own messages include none. Text from other
sources (exceptions, libraries, Triton's last output) is cleaned here. An exception is logged by its type and
where it was raised, since its message may quote user input.
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
"""Loggers that LOG_LEVEL=debug applies to. At that level, libraries log URLs and headers."""

_PATH = re.compile(r"(?<![\w:/.~%-])~?/(?:[^\s/'\"<>:;,|()]+/)+([^\s/'\"<>:;,|()]*)")
_FRAMES = 12
_LINE_ENDS = re.compile(r"\s*[\r\n\u2028\u2029]+\s*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Cleaner:
    """Removes secrets, directories and line ends from text for the log.

    Args:
        secrets: Values to replace wherever they occur.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first, since one secret may be part of another.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return the text as one line, without secrets, and with only the last part of each path."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = _PATH.sub(r"[...]/\1", text)
        return _CONTROL.sub(" ", _LINE_ENDS.sub(" | ", text.strip()))


class LogFormatter(logging.Formatter):
    """Base of the formatters: collects the fields of a line."""

    def __init__(self, cleaner: Cleaner) -> None:
        super().__init__()
        self._cleaner = cleaner

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a record, in the order of a JSON line."""
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
    """Formats a record as a JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return orjson.dumps(self.fields(record), default=str).decode()


class TextFormatter(LogFormatter):
    """Formats a record as time, level, logger and message, then `name=value` for each other field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = self.fields(record)
        head = (fields.pop(name) for name in ("time", "level", "logger", "message"))
        time, level, logger, message = head
        line = f"{time} {level.upper():7} {logger}: {message}"
        return " ".join((line, *(f"{name}={value}" for name, value in fields.items())))


def describe(error: BaseException) -> str:
    """Return the types of an exception and its causes, with where each was raised, innermost frame first."""
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
    """Send the logs of this process and of uvicorn to standard error, unless logging is already set up."""
    # Without its own loggers, uvicorn logs to the root logger, also in the worker processes that it starts.
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
    # At INFO, httpx logs the URL of every image that is fetched.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # uvicorn's access lines contain URLs. `request_context.py` logs each request without its URL.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
