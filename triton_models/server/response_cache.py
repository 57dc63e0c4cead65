"""The setting RESPONSE_CACHE: its values, and Triton's arguments for them."""

import re
from dataclasses import dataclass
from pathlib import Path

from triton_models.client.errors import EmbeddedTritonError

DEFAULT_RESPONSE_CACHE = "local:134217728"
"""The default: 128 MiB in Triton's memory."""

_LOCAL = re.compile(r"local:([1-9][0-9]{0,14})")
_REDIS = re.compile(r"redis://([A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclass(frozen=True)
class ResponseCache:
    """A parsed RESPONSE_CACHE.

    Attributes:
        kind: `local`, `redis` or `off`.
        options: Values by name for Triton's `--cache-config KIND,NAME=VALUE`.
    """

    kind: str
    options: dict[str, str]


def parse_response_cache(value: str) -> ResponseCache:
    """Read `local:SIZE_IN_BYTES`, `redis://host:port` or `off`.

    Raises:
        ValueError: The value has another form.
    """
    if value == "off":
        return ResponseCache("off", {})
    if match := _LOCAL.fullmatch(value):
        return ResponseCache("local", {"size": match[1]})
    if (match := _REDIS.fullmatch(value)) and 0 < int(match[2]) < 65536:
        return ResponseCache("redis", {"host": match[1], "port": match[2]})
    raise ValueError("must be local:SIZE_IN_BYTES, redis://host:port or off")


def cache_arguments(cache: ResponseCache, caches: Path) -> list[str]:
    """Return the arguments for a Triton whose cache libraries are in the directory `caches`.

    Raises:
        EmbeddedTritonError: This Triton has no library for this kind of cache.
    """
    if cache.kind == "off":
        return []
    if not (caches / cache.kind / f"libtritoncache_{cache.kind}.so").is_file():
        raise EmbeddedTritonError(
            f"RESPONSE_CACHE: the embedded Triton has no {cache.kind} cache: use local:SIZE_IN_BYTES or off, "
            "or set TRITON_GRPC_ADDRESS to NVIDIA's container, which has it"
        )
    arguments = [f"--cache-directory={caches}"]
    return arguments + [
        f"--cache-config={cache.kind},{name}={value}" for name, value in cache.options.items()
    ]
