"""File system operations that are whole or not there at all, kill or power cut.

Knows nothing about models.
"""

import ctypes
import errno
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sync(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a directory, and keep its entries in order themselves.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush `root` and everything below it."""
    for directory, _, names in os.walk(root):
        for name in names:
            sync(Path(directory) / name)
        sync(Path(directory))


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one. Makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync(path.parent)


def move_into_place(new: Path, target: Path, trash: Path) -> None:
    """Make the directory `new` the directory `target`; what was there before is deleted.

    Whole at every moment where the file system can exchange two names (Linux: ext4, xfs, btrfs,
    tmpfs, overlayfs). Elsewhere a kill between two renames leaves no `target`. `trash` is a directory
    of the same file system.
    """
    if os.path.lexists(target):
        old = _trash_name(target, trash)
        try:
            _exchange(new, target)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise
            os.rename(target, old)
            os.rename(new, target)
        else:
            os.rename(new, old)
        sync(target.parent)
        remove(old)
    else:
        os.rename(new, target)
        sync(target.parent)


def remove_whole(target: Path, trash: Path) -> None:
    """Delete a directory: out of sight by one rename, then file by file.

    Raises:
        FileNotFoundError: there is none.

    """
    old = _trash_name(target, trash)
    os.rename(target, old)
    sync(target.parent)
    remove(old)


def remove(path: Path) -> None:
    """Delete what is there, as far as that is permitted: a directory with all below it, a file, a link."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _trash_name(target: Path, trash: Path) -> Path:
    """A name in `trash` that nobody uses."""
    trash.mkdir(parents=True, exist_ok=True)
    return trash / f"{target.name}.{secrets.token_hex(8)}"


def _exchange(one: Path, other: Path) -> None:
    """Swap two names at once.

    Raises:
        OSError: ENOSYS or EINVAL where the system or the file system cannot.

    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
