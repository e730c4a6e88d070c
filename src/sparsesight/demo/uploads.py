"""Uploaded pictures: in the demo's own folder, bounded in bytes and pixels, and decoded one at a time."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import SparseSightError
from ..images import check_image, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 25_000_000
MAX_STORED = 2**30  # bytes of all uploads together
MAX_FILES = 1000
# For a missing, unreadable or foreign file alike: it tells nothing of the machine.
NOT_HERE = "the picture is not on the server: upload it, or choose an example"


class Uploads:
    """The pictures of a folder, for clients that may send any path.

    Args:
        folder: of uploaded pictures; nothing outside of it is read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._lock = Lock()  # what several users send at once does not add up in memory

    def make_room(self) -> None:
        """Delete the oldest files, until one more upload stays within the limits of all together."""
        files = []
        for file in self._folder.rglob("*"):
            with suppress(OSError):  # it went away
                found = file.lstat()
                if stat.S_ISREG(found.st_mode):
                    files.append((found.st_mtime_ns, found.st_size, file))
        room, number = MAX_STORED - MAX_BYTES, MAX_FILES - 1
        for _, size, file in sorted(files, reverse=True):
            room, number = room - size, number - 1
            if room < 0 or number < 0:
                with suppress(OSError):
                    file.unlink()

    def add(self, name: str, content: bytes) -> Path:
        """A file of the folder that the page may offer; it is deleted as uploads are."""
        self.make_room()
        file = Path(mkdtemp(dir=self._folder)) / name
        file.write_bytes(content)
        return file

    def path_of(self, upload: Any) -> Path | None:
        """Where a picture lies, from what a page sends for it: ``{"path": ...}``, of which all but the path is ignored.

        Raises:
            SparseSightError: if it is none of this folder; None is no picture.
        """
        if upload is None:
            return None
        return self._inside(upload.get("path") if isinstance(upload, dict) else None)

    def check(self, path: str | Path | None) -> None:
        """Look at a picture's header.

        Raises:
            SparseSightError: no picture, none of this folder, too many bytes or pixels, and what
                :func:`sparsesight.images.check_image` refuses. Of the path only the file's name is told.
        """
        self._look(check_image, path)

    def read(self, path: str | Path | None) -> Image:
        """The picture.

        Raises:
            SparseSightError: as :meth:`check`, and if it is damaged.
        """
        image: Image = self._look(open_image, path)
        return image

    def _inside(self, path: Any) -> Path:
        """A file of the folder, wherever links and dots lead."""
        if isinstance(path, str | Path) and Path(path).is_absolute():
            try:
                file = Path(path).resolve(strict=True)
                if file.is_relative_to(self._folder) and file.is_file():
                    return file
            except (
                OSError,
                ValueError,
                RuntimeError,
            ):  # among them: no such file, a null byte, a loop of links
                pass
        raise SparseSightError(NOT_HERE)

    def _look(self, look: Callable[[Path, int], Any], path: str | Path | None) -> Any:
        if path is None:
            raise SparseSightError("there is no picture: upload one, or choose an example")
        file = self._inside(path)
        try:
            size = file.stat().st_size
        except OSError:
            raise SparseSightError(NOT_HERE) from None
        if size > MAX_BYTES:
            raise SparseSightError(
                f"{file.name!r} has {size / 2**20:.1f} MB, more than the limit of {MAX_BYTES // 2**20} MB: scale it "
                "down first"
            )
        try:
            with self._lock:
                return look(file, MAX_PIXELS)
        except SparseSightError as error:
            raise SparseSightError(str(error).replace(repr(str(file)), repr(file.name))) from None
