"""Credentials from the environment: removed before the server starts anything, and kept in this process.

Linux shows the environment that a process began with; changing a variable does not change that memory. Any
process of the same user can read it, a model's own code included. So this module overwrites it.
"""

import ctypes
import json
import os
import re
from multiprocessing import current_process
from pathlib import Path

SECRETS = ("API_KEYS", "ADMIN_API_KEYS", "TRITON_GRPC_HEADERS")
"""Secret settings: their values are never shown, and no child process inherits them."""

OF_THE_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Tokens of the Hugging Face Hub; only the converter gets them, since it downloads models."""

OF_TRITON = ("TRITONCACHE_REDIS_USERNAME", "TRITONCACHE_REDIS_PASSWORD")
"""Credentials of Triton's Redis cache; the converter does not get them."""

_KEY_BYTES = 32
_PR_SET_DUMPABLE = 4
_taken: dict[str, str] = {}


def take() -> dict[str, str]:
    """Move the credentials out of the environment; return all that were taken so far, by variable.

    Workers that uvicorn starts get them too: multiprocessing passes its authentication key to new processes
    through a pipe, and the credentials are appended to that key.
    """
    process = current_process()
    behind = bytes(process.authkey)[_KEY_BYTES:]
    _taken.update(json.loads(behind) if behind else {})
    for name in [name for name in os.environ if name.upper() in (*SECRETS, *OF_THE_HUB)]:
        _taken[name.upper()] = os.environ.pop(name)
    _overwrite((*SECRETS, *OF_THE_HUB))
    if _taken:
        process.authkey = bytes(process.authkey)[:_KEY_BYTES] + json.dumps(_taken).encode()
    return dict(_taken)


def for_the_converter() -> dict[str, str]:
    """Return the environment of a converter: with the Hub's token, without Triton's credentials."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_TRITON}
    return environment | {name: _taken[name] for name in OF_THE_HUB if name in _taken}


def keep_others_out() -> None:
    """Make Linux deny other processes of the same user access to this process's memory.

    That user's debuggers, profilers and core dumps stop working too. Call this where third-party code runs
    as the same user.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def _overwrite(names: tuple[str, ...]) -> None:
    """Overwrite these variables with zeros in the environment that the process started with; Linux only."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return
    # proc(5): env_start and env_end are fields 50 and 51. The name, field 2, is cut off, so index 0 is 3.
    fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    if not 0 < start < end:
        return
    pattern = rb"(?:^|(?<=\0))(?:%s)=[^\0]*" % "|".join(names).encode()
    # Names of settings may be in lower case.
    for found in re.finditer(pattern, ctypes.string_at(start, end - start), re.IGNORECASE):
        ctypes.memset(start + found.start(), 0, len(found[0]))
