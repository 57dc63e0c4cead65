"""File system operations that happen completely or not at all, even in a kill or a power cut.

This module knows nothing about models.
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
        # Some network file systems cannot flush a directory; they keep its entries in order themselves.
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
    """Write a small file so that a reader sees the old text or the new one; make its directory if needed."""
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
    """Rename the directory `new` to `target` and delete the old `target`, if there was one.

    There is a complete `target` at every moment if the file system can exchange two names (Linux: ext4, xfs,
    btrfs, tmpfs, overlayfs). Elsewhere a kill between two renames leaves no `target`.

    Args:
        new: Directory to move.
        target: Its new name.
        trash: Directory on the same file system, through which the old one is deleted.
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
    """Delete a directory: move it into `trash` by one rename, then delete it file by file.

    Raises:
        FileNotFoundError: There is no such directory.
    """
    old = _trash_name(target, trash)
    os.rename(target, old)
    sync(target.parent)
    remove(old)


def remove(path: Path) -> None:
    """Delete a file, a link, or as much of a directory tree as permissions allow."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _trash_name(target: Path, trash: Path) -> Path:
    """Return an unused name in `trash`."""
    trash.mkdir(parents=True, exist_ok=True)
    return trash / f"{target.name}.{secrets.token_hex(8)}"


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names atomically.

    Raises:
        OSError: ENOSYS or EINVAL if the system or the file system does not support it.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
