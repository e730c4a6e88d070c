"""Files that commands read and write: whole or not at all, of the right type, and never through a planted link."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .errors import SparseSightError

T = TypeVar("T")
_KINDS: dict[type, str] = {dict: "object", list: "array", str: "string"}  # in JSON's own terms
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor wait for the other end of a pipe


def check_parent(path: Path, option: str) -> None:
    """Check that the folder in which an option wants something written is there.

    Raises:
        SparseSightError: naming the option and its value.
    """
    if not path.absolute().parent.is_dir():
        raise SparseSightError(
            f"{option} {str(path)!r}: its parent directory does not exist, create it first"
        )


def read_json(file: Path, kind: type[T]) -> T:
    """The JSON value of a file; numbers must be finite.

    Raises:
        SparseSightError: naming the file, if it cannot be read, is no JSON or another type than ``kind``.
    """
    return parse_json(read_text(file), kind, str(file))


def parse_json(text: str, kind: type[T], where: str) -> T:
    """The value of JSON text.

    Args:
        text: what was read.
        kind: type of the value.
        where: file, and line if it has several, for the message.

    Raises:
        SparseSightError: naming ``where``, if it is no JSON, not finite, too deep or another type than ``kind``.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SparseSightError(f"{where} is damaged (not a valid JSON file: {_why(error)})") from None
    if not isinstance(value, kind):
        raise SparseSightError(f"{where} is damaged (not a JSON {_KINDS.get(kind, kind.__name__)})")
    return value


def read_text(file: Path) -> str:
    """The text of a regular file.

    Raises:
        SparseSightError: naming the file, if it is no regular file, cannot be read or is no UTF-8.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe or a device could last for ever
            raise SparseSightError(f"{file} is not a regular file")
        return file.read_text("utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, SparseSightError):
            raise
        raise SparseSightError(f"{file} cannot be read ({_why(error)})") from None


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits; the file is read in parts."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(2**20):
            found.update(part)
    return found.hexdigest()


def replace_file(path: Path, data: str | bytes) -> None:
    """Write a file so that it is there whole or not at all. A link in its place is replaced, not followed.

    Raises:
        SparseSightError: naming the file, if it cannot be written; nothing is left beside it.
    """
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)
    try:
        with suppress(FileNotFoundError):
            fresh.unlink()  # of a process that was killed, or planted
        with os.fdopen(os.open(fresh, flags, 0o666), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise SparseSightError(f"{path} cannot be written ({_why(error)})") from None


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """A regular file of one name, to be read and added to; made where there is none.

    Raises:
        SparseSightError: naming the file, if it cannot be opened or written; a link, of either kind, is not.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags, 0o666), "a+b") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise OSError("it is a link or not a regular file")
            yield file
    except OSError as error:
        raise SparseSightError(f"{path} cannot be written ({_why(error)})") from None


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a path that leads out of a folder by a link.

    Raises:
        SparseSightError: naming the path, or what stands where a folder belongs.
    """
    for part in (path, *path.parents):
        if part == folder:
            return
        if part.is_symlink():
            raise SparseSightError(f"{part} is a link: delete it, nothing is read or written through links")
        if part != path and part.exists() and not part.is_dir():
            raise SparseSightError(f"{part} is a file where a folder belongs: delete it")
    raise SparseSightError(f"{path} does not lie in {folder}")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _why(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:160] or type(error).__name__
