"""Credentials of the environment: taken out of it before anything is started, and kept in this process.

What Linux shows as a process's environment is the memory that it began with, which changing variables leaves
as it is. Processes of the same user can read it, a model's own code among them: so it is overwritten.
"""

import ctypes
import json
import os
import re
from multiprocessing import current_process
from pathlib import Path

SECRETS = ("API_KEYS", "ADMIN_API_KEYS", "TRITON_GRPC_HEADERS")
"""Settings of which nothing is shown, and which no process that is started inherits."""

OF_THE_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""For the converter alone, which downloads."""

OF_TRITON = ("TRITONCACHE_REDIS_USERNAME", "TRITONCACHE_REDIS_PASSWORD")
"""Read by Triton's redis cache, and nothing to the converter."""

_KEY_BYTES = 32
_PR_SET_DUMPABLE = 4
_taken: dict[str, str] = {}


def take() -> dict[str, str]:
    """Take the credentials out of the environment; all that were taken so far, by variable.

    Workers that uvicorn starts find them here too: multiprocessing hands its key to new processes through a
    pipe, and they are put behind it.
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
    """The environment of a converter: with the Hub's token, without what is Triton's."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_TRITON}
    return environment | {name: _taken[name] for name in OF_THE_HUB if name in _taken}


def keep_others_out() -> None:
    """Have Linux refuse this process's memory to other processes of its user.

    With it go debuggers and profilers of that user, and files of a crash: for where others' code runs.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def _overwrite(names: tuple[str, ...]) -> None:
    """Fill with zeros what this process was started with under these names; Linux only."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return
    # proc(5): env_start and env_end, the 50th and 51st field; the third follows the name in parentheses.
    fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    if not 0 < start < end:
        return
    pattern = rb"(?:^|(?<=\0))(?:%s)=[^\0]*" % "|".join(names).encode()
    # Settings may be written in small letters.
    for found in re.finditer(pattern, ctypes.string_at(start, end - start), re.IGNORECASE):
        ctypes.memset(start + found.start(), 0, len(found[0]))
