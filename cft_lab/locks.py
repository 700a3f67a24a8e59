"""Locks between processes, and between machines on a shared file system: free as soon as their holder is dead.

A lock is named by a path without suffix: a kernel lock on `<path>.lock`, or, on a file system that has none, a lease in
`<path>.lease`, which its holder renews. A lease whose holder died on another machine counts as free after two minutes; who takes it
watches it for two more.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

LOCK, LEASE = ".lock", ".lease"
_LEASE_S = 120.0


def open_lock(path: Path) -> Any:
    """The lock of a path, free or held; its methods are `acquire(timeout=seconds)`, which raises Timeout, and `release()`.

    It is a context manager that waits.
    """
    from filelock import FileLock, SoftFileLease, Timeout

    lock: Any = FileLock(f"{path}{LOCK}", fallback_to_soft=False)  # a soft lock of a dead process elsewhere would never be free
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:  # held: by a lock of this kind, then
        pass
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        lock = SoftFileLease(f"{path}{LEASE}", lease_duration=_LEASE_S)
    return lock


def take(path: Path) -> Any | None:
    """The lock of a path, held by this process now; None if another holds it."""
    from filelock import Timeout

    lock = open_lock(path)
    try:
        lock.acquire(timeout=2 * _LEASE_S if _is_abandoned(path) else 0)
    except Timeout:
        return None
    return lock


def _is_abandoned(path: Path) -> bool:
    """Whether a path has a lease that nobody has renewed for as long as one lasts."""
    try:
        return time.time() - Path(f"{path}{LEASE}").stat().st_mtime > _LEASE_S
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process that is alive holds the lock of a path; creates no lock file."""
    if not any(Path(f"{path}{suffix}").exists() for suffix in (LOCK, LEASE)):
        return False
    if _is_abandoned(path):
        return False
    lock = take(path)
    if lock is not None:
        lock.release()
    return lock is None


def remove(path: Path, held: Any) -> None:
    """Releases a lock that `take` gave and removes its file. Who waits for it notices, and takes a new one."""
    for suffix in (LOCK, LEASE):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    held.release()
