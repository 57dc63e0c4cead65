"""The requests of the load test as bytes, built before the run."""

import json
from collections import deque
from collections.abc import Iterator
from itertools import islice

from benchmarks.loadtest.connection import head, with_body
from benchmarks.loadtest.images import images
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.texts import texts

AHEAD_PER_SECOND = 2000
"""The requests built ahead for each second of a run that ends by its duration."""

AHEAD_BYTES = 256 << 20
"""The most memory of requests built ahead, over all processes."""


def headers(settings: Settings) -> dict[str, str]:
    """Return the headers of every request of the load test."""
    key = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
    return {"Content-Type": "application/json", "Accept": "application/json", **key}


def body(settings: Settings, texts: Iterator[str], images: Iterator[str]) -> bytes:
    """Build the JSON of one request; a single input is a string, as most callers send it."""
    fields: dict[str, str | list[str]] = dict(settings.named)
    for name, inputs, number in (
        ("text", texts, settings.texts_sent),
        ("image", images, settings.images_sent),
    ):
        if number:
            fields[name] = next(inputs) if number == 1 else list(islice(inputs, number))
    return json.dumps(fields, ensure_ascii=False).encode()


class Requests:
    """One process's requests, in order."""

    def __init__(self, settings: Settings, process: int) -> None:
        self._settings = settings
        self._texts = texts(settings, process)
        self._images = images(settings, process)
        self._ready: deque[bytes] = deque()
        self._head = head(settings.address, settings.route, headers(settings))

    def take(self) -> bytes:
        """Return the next request, which is built now if none is left of those built ahead."""
        return self._ready.popleft() if self._ready else self._build()

    def build_ahead(self, process: int) -> None:
        """Build the requests that the run will need, within AHEAD_BYTES."""
        settings = self._settings
        total = settings.total_requests or round(AHEAD_PER_SECOND * (settings.duration or 0))
        size = 0
        for _ in range(settings.share(total + settings.warmup, process) + settings.connections):
            request = self._build()
            self._ready.append(request)
            size += len(request)
            if size > AHEAD_BYTES // settings.processes:
                break

    def _build(self) -> bytes:
        return with_body(self._head, body(self._settings, self._texts, self._images))
