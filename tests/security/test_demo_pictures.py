"""Pictures that were made to harm: each is read as a picture or refused with a sentence, one at a time and in little
memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from sparsesight.demo import uploads
from sparsesight.demo.uploads import Uploads
from sparsesight.errors import SparseSightError
from sparsesight.images import FORMATS, check_image, open_image

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
}
COMPRESSED = ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")
SIZE = (37, 23)


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small picture of noise."""
    values = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(values[..., 0].astype(np.float32))
    else:
        image = Image.fromarray(values).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def defects(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file as it is, and what can be wrong with it."""
    yield "whole", data
    yield "with more behind it", data + bytes(1000)
    for share in (0.02, 0.3, 0.97):
        yield f"cut at {share}", data[: max(int(len(data) * share), 1)]
    dice = np.random.default_rng(len(data))
    for turn in range(3):
        broken = np.frombuffer(data, np.uint8).copy()
        where = dice.integers(8 if turn else 4, min(len(data), 60 if turn < 2 else len(data)), 6)
        broken[where] = dice.integers(0, 255, 6)
        yield f"noise {turn}", broken.tobytes()


def kinds() -> list[tuple[str, bytes]]:
    """About 250 files: formats x modes x defects."""
    files = [(f"{kind} {mode}", encoded(kind, mode)) for kind, modes in MODES.items() for mode in modes]
    files += [(f"TIFF {name}", encoded("TIFF", compression=name)) for name in COMPRESSED]
    files += [("JPEG progressive", encoded("JPEG", progressive=True))]
    return [(f"{name}, {defect}", data) for name, whole in files for defect, data in defects(whole)]


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any size, without pixels."""
    header = b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = [header, *chunks, (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in body
    )


def tiff(strips: int, order: str = "<", big: bool = False) -> bytes:
    """An uncompressed TIFF of 64 x 64 whose list of strips is as long as one likes."""
    values = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    values += [(273, 4, strips, 0), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, strips, 0)]
    entry, start = (20, 16) if big else (12, 8)
    behind = start + (16 if big else 6) + entry * len(values)
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        f"{order}HHHQ" if big else f"{order}HL", *((43, 8, 0, start) if big else (42, start))
    )
    made = head + struct.pack(order + ("Q" if big else "H"), len(values))
    for tag, kind, count, value in values:
        size = 8 if big else 4
        inline = struct.pack(order + ("H" if kind == 3 else "L"), value).ljust(size, b"\0")
        where = struct.pack(order + ("Q" if big else "L"), behind)
        made += struct.pack(order + ("HHQ" if big else "HHL"), tag, kind, count)
        made += inline if count == 1 else where
    return made + bytes(8 if big else 4) + struct.pack(f"{order}L", behind) * strips


def tried(look: Any, path: Path) -> tuple[Any, str]:
    """What comes of a look at a picture: something, or a sentence."""
    try:
        return look(path), ""
    except SparseSightError as error:
        said = str(error)
        assert "\n" not in said and str(path.parent) not in said and ": " in said and len(said) < 400
        assert not list(held(error))
        return None, said


def held(error: BaseException | None) -> Iterator[Any]:
    """Pixels that an exception keeps alive."""
    while error is not None:
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            for value in trace.tb_frame.f_locals.values():
                if isinstance(value, Image.Image | np.ndarray):
                    yield value
            trace = trace.tb_next
        error = error.__context__ or error.__cause__


def test_every_kind_of_file_is_a_picture_or_a_sentence(tmp_path: Path) -> None:
    desk, seen = Uploads(tmp_path), {"read": 0, "refused": 0}
    files = kinds()
    assert len(files) >= 190
    for number, (name, data) in enumerate(files):
        path = tmp_path / f"{number}.png"  # whatever it is
        path.write_bytes(data)
        _, early = tried(desk.check, path)
        image, late = tried(desk.read, path)
        assert not early or early == late, name  # what is refused by its header is not decoded
        if name.endswith("whole"):
            assert image is not None and image.size == SIZE, (name, late)
        if image is not None:
            assert image.mode == "RGB" and image.width * image.height <= uploads.MAX_PIXELS, name
        seen["refused" if image is None else "read"] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize(
    "suffix", ["ico", "icns", "ppm", "tga", "pcx", "sgi", "dds", "jp2", "avif", "pdf", "im"]
)
def test_other_formats_are_refused_unread(suffix: str, tmp_path: Path) -> None:
    try:
        Image.new("RGB", (64, 64)).save(tmp_path / f"a.{suffix}")
    except (OSError, KeyError, ValueError):
        pytest.skip(f"Pillow was built without {suffix}")
    (tmp_path / "a.png").write_bytes((tmp_path / f"a.{suffix}").read_bytes())
    for name in ("a.png", f"a.{suffix}"):
        for look in (Uploads(tmp_path).check, Uploads(tmp_path).read):
            assert "PNG, JPEG, WEBP, GIF, BMP or TIFF" in tried(look, tmp_path / name)[1]


def test_no_program_runs_on_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("Ghostscript ran"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for look in (open_image, check_image):  # of ask and eval too
        with pytest.raises(SparseSightError, match="save it as PNG or JPEG"):
            look(path)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (png(5_001, 5_000), "25,005,000 pixels"),
        (png(30_000, 30_000), "900,000,000 pixels"),
        (png(2**31 - 1, 2**31 - 1), "pixels"),
        (png(1, 25_000), "times as long as wide"),
        (png(0, 5), "is not a picture"),
        (b"GIF89a" + bytes(7), ""),
        (tiff(0), "is not a picture"),
        (tiff(100_001), "a list of 100,001 values"),
        (tiff(100_001, ">"), "a list of 100,001 values"),
        (tiff(100_001, big=True), "a list of 100,001 values"),
        (b"II*\0" + struct.pack("<L", 2**32 - 1), "damaged"),
        (b"II*\0", "damaged"),
    ],
    ids=map(str, range(12)),
)
def test_bombs_are_refused_by_their_headers(data: bytes, part: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    start = time.monotonic()
    said = [tried(look, tmp_path / "a.png")[1] for look in (Uploads(tmp_path).check, Uploads(tmp_path).read)]
    assert part in said[1] and said[1]
    assert not said[0] or said[0] == said[1]
    assert time.monotonic() - start < 5


def test_a_jpeg_of_a_thousand_scans_is_not_decoded(tmp_path: Path) -> None:
    data = encoded("JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + 1000 * scan + data[-2:])
    assert "more than the limit of 100" in tried(Uploads(tmp_path).check, tmp_path / "a.jpg")[1]


def test_a_check_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for kind in FORMATS:
        paths.append(tmp_path / f"a.{kind}")
        paths[-1].write_bytes(encoded(kind))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("a check decoded a picture"))
    for path in paths:
        Uploads(tmp_path).check(path)


def test_one_picture_is_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    inside, most = [0], [0]

    def slow(path: Path, limit: int) -> Image.Image:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1
        return open_image(path, limit)

    monkeypatch.setattr(uploads, "open_image", slow)
    desk = Uploads(tmp_path)
    users = [Thread(target=desk.read, args=(tmp_path / "a.png",)) for _ in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert most == [1]


MEMORY = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sparsesight.demo.uploads import Uploads
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
folder = Path(sys.argv[1])
desk, before = Uploads(folder), peak()
with ThreadPoolExecutor(8) as users:
    list(users.map(desk.check, [folder / "a.png"] * 40))
checked = peak()
with ThreadPoolExecutor(8) as users:
    list(users.map(lambda path: desk.read(path).size, [folder / "a.png"] * 3))
print(checked - before, peak() - checked)
"""


def test_memory_of_many_at_once(tmp_path: Path) -> None:
    """Checks of the largest picture cost nothing; what decoding costs does not grow with the users."""
    Image.new("RGBA", (5_000, 5_000), (1, 2, 3, 4)).save(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    checks, reads = map(float, done.stdout.split())
    assert checks < 30 and reads < 400  # MB; three of them at once would take 900
