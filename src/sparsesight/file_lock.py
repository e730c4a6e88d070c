"""A lock between processes, as a file."""

from __future__ import annotations

from filelock import FileLock


class ProcessLock(FileLock):
    """A separate class, since lmms-eval makes ``FileLock`` one shared, reentrant lock per path, which locks nothing."""
