"""Records in Redis, shared by any number of stores, with a time to live and a limit in bytes.

This backend is a cache and not a durable place. If Redis refuses, is slow or has lost a key, the record
counts as missing and the server is asked. After a failure Redis is not asked for a moment, so that not every
request pays its timeout.
"""

import logging
import time
from collections.abc import Container
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from inference_store.backends import BackendUnavailable, CannotRecord, Index
from inference_store.record import DamagedRecord, Record, UnreadableRecord, decode, encode

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 0.25
"""The timeout of a connection and of a command, which also ends the wait for a Redis that hangs."""

PAUSE_SECONDS = 1.0
PREFIX = "inference_store:"
_SCAN = 500

_PUT = """
-- KEYS: the record, the times of all records, their sizes.
-- ARGV: name, bytes, now in microseconds, time to live in ms, limit.
local record, times, sizes = KEYS[1], KEYS[2], KEYS[3]
local name, data, now, ttl, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function forget(other)
  local size = tonumber(redis.call('HGET', sizes, other) or 0)
  if size > 0 then redis.call('HINCRBY', sizes, ':total', -size) end
  redis.call('HDEL', sizes, other)
  redis.call('ZREM', times, other)
end
forget(name)
if ttl > 0 then
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', now - 1000 * ttl)) do forget(other) end
  redis.call('SET', record, data, 'PX', ttl)
else
  redis.call('SET', record, data)
end
redis.call('ZADD', times, now, name)
redis.call('HSET', sizes, name, #data)
local total = redis.call('HINCRBY', sizes, ':total', #data)
while total > limit do
  local oldest = redis.call('ZRANGE', times, 0, 0)[1]
  if not oldest then break end
  redis.call('DEL', string.sub(record, 1, #record - #name) .. oldest)
  forget(oldest)
  total = tonumber(redis.call('HGET', sizes, ':total'))
end
"""


class RedisBackend:
    """The backend of a Redis.

    Args:
        url: redis://host:port/db.
        ttl: Seconds that a record lives, 0 for ever.
        limit: Bytes of all records.
        compress: Whether records are written compressed; both kinds are read.
    """

    def __init__(self, url: str, *, ttl: float, limit: int, compress: bool = False) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=None
        )
        self._ttl_ms = int(ttl * 1000)
        self._limit = limit
        self._compress = compress
        self._put = self._redis.register_script(_PUT)
        self._rest_until = 0.0

    async def get(self, key: str) -> Record | None:
        """As Backend."""
        data = await self._ask(self._redis.get(PREFIX + key))
        if data is None:
            return None
        try:
            return decode(data, key)
        except DamagedRecord:
            await self._ask(self._redis.delete(PREFIX + key))
            raise

    async def put(self, record: Record) -> None:
        """As Backend; the records written longest ago are deleted to make room."""
        data = encode(record, compress=self._compress)
        if len(data) > self._limit:
            raise CannotRecord(
                f"record {record.key} is larger than the limit of {self._limit} bytes in Redis"
            )
        keys = [PREFIX + record.key, f"{PREFIX}:times", f"{PREFIX}:sizes"]
        now = int(time.time() * 1e6)
        try:
            await self._ask(self._put(keys, [record.key, data, now, self._ttl_ms, self._limit]))
        except BackendUnavailable as error:
            raise CannotRecord(str(error)) from error

    async def indexes(self, known: Container[str]) -> tuple[set[str], dict[str, Index]]:
        """As Backend."""
        keys = {name.removeprefix(PREFIX) for name in await self._ask(self._names())}
        found = {}
        for key in keys:
            if key not in known:
                try:
                    record = await self.get(key)
                except UnreadableRecord as error:
                    log.error("%s", error)
                    continue
                if record is not None:
                    found[key] = {"request": record.description}
        return keys, found

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _names(self) -> list[str]:
        return [name.decode() async for name in self._redis.scan_iter(f"{PREFIX}[0-9a-f]*", count=_SCAN)]

    async def _ask(self, command: Any) -> Any:  # noqa: ANN401 - whatever redis returns
        """Return the answer of Redis.

        Raises:
            BackendUnavailable: Redis does not answer, or did not a moment ago.
        """
        if time.monotonic() < self._rest_until:
            command.close()
            raise BackendUnavailable("Redis did not answer a moment ago")
        try:
            return await command
        except (RedisError, OSError, TimeoutError) as error:
            self._rest_until = time.monotonic() + PAUSE_SECONDS
            log.error("Redis does not answer: %s", error)
            raise BackendUnavailable(f"Redis does not answer: {error}") from error
