"""Where the pictures and clips of a row lie: a file beside the rows, or a cell of a dataset on disk."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SparseSightError, brief
from ...files import sha256
from ...images import check_image, check_image_data, open_image, open_image_data

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CLIP_BYTES = 4 << 30
END = 1 << 20  # bytes of each end of a clip that are compared


@dataclass(frozen=True)
class File:
    """A picture, or with ``clip`` a video, in a file."""

    path: Path
    clip: bool = False

    @property
    def name(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Refuse what cannot be shown, from its header alone.

        Raises:
            SparseSightError: naming the file.
        """
        if not self.clip:
            return check_image(self.path)
        try:
            found = self.path.stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SparseSightError(
                f"clip {brief(self.name)} cannot be read ({reason}): check the path"
            ) from None
        if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= MAX_CLIP_BYTES:
            raise SparseSightError(
                f"clip {brief(self.name)} is no file of 1 to {MAX_CLIP_BYTES:,} bytes: cut or copy it"
            )

    def content(self) -> str:
        """The same for equal pictures and clips, wherever they lie; a clip is known by its size and both its ends.

        Raises:
            SparseSightError: it cannot be read.
        """
        try:
            return _ends(self.path) if self.clip else sha256(self.path)
        except OSError as error:
            raise SparseSightError(f"{brief(self.name)} cannot be read ({error.strerror or error})") from None

    def part(self) -> dict[str, Any]:
        """As a part of a message's content."""
        return {"type": "video", "url": self.name} if self.clip else {"type": "image", "url": self.image()}

    def image(self) -> Image:
        return open_image(self.path)


@dataclass(frozen=True)
class Cell:
    """A picture in a table of a dataset on disk: encoded bytes, which are judged as files are.

    Attributes:
        table: rows of ``{column: {"bytes": ...}}`` or of lists of those; decoded by nobody else.
        row, column, place: where it lies; ``place`` in the list.
        name: for messages.
    """

    table: Any = field(repr=False, compare=False)
    row: int
    column: str
    place: int
    name: str
    clip: bool = False

    def check(self) -> None:
        """As :meth:`File.check`."""
        check_image_data(self._data(), self.name)

    def content(self) -> str:
        """As :meth:`File.content`."""
        return hashlib.sha256(self._data()).hexdigest()

    def part(self) -> dict[str, Any]:
        """As a part of a message's content."""
        return {"type": "image", "url": self.image()}

    def image(self) -> Image:
        return open_image_data(self._data(), self.name)

    def _data(self) -> bytes:
        value = self.table[self.row][self.column]
        value = value[self.place] if isinstance(value, list) else value
        data = value.get("bytes") if isinstance(value, dict) else None
        if not isinstance(data, bytes):
            raise SparseSightError(
                f"{self.name} holds no picture's bytes: save the dataset with its pictures inside (save_to_disk)"
            )
        return data


Source = File | Cell


def _ends(path: Path) -> str:
    """A hash of a file's size, beginning and end: reading a whole clip may take long."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size} ".encode() + file.read(END))
        file.seek(max(size - END, 0))
        digest.update(file.read(END))
    return digest.hexdigest()


def file_beside(folder: Path, name: Any, clip: bool = False) -> File:
    """A file named relative to the folder of the rows.

    Raises:
        SparseSightError: no text, an absolute path, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name or len(name) > 4096 or "\0" in name:
        raise SparseSightError(f"{brief(name)} is no path: write one relative to the file of the rows")
    path = folder / name
    try:
        name.encode()  # names of files need not be text, but what is written of them is
        outside = os.path.isabs(name) or not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise SparseSightError(f"{brief(name)} is no path ({error})") from None
    if outside:
        raise SparseSightError(
            f"{brief(name)} lies outside of {str(folder)!r}: write paths relative to the file of the rows, which lies "
            "in a folder above its pictures"
        )
    return File(path, clip)
