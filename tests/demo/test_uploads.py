"""Pictures that are sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sparsesight.demo import uploads
from sparsesight.demo.uploads import Uploads
from sparsesight.errors import SparseSightError


def test_a_picture_is_read(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 10), (255, 0, 0, 255)).save(tmp_path / "a.png")
    found = Uploads(tmp_path).read(tmp_path / "a.png")
    assert found.mode == "RGB" and found.size == (20, 10) and found.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"no picture", "is not a picture"),
        (b"", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "PNG or JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PNG or JPEG"),
    ],
)
def test_what_is_no_picture_is_refused_without_telling_where_it_lies(
    content: bytes, part: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SparseSightError, match=part) as caught:
        Uploads(tmp_path).read(tmp_path / "a.png")
    assert "'a.png'" in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a.bmp")
    size = (tmp_path / "a.bmp").stat().st_size
    monkeypatch.setattr(uploads, "MAX_BYTES", size)
    monkeypatch.setattr(uploads, "MAX_PIXELS", 10_000)
    Uploads(tmp_path).read(tmp_path / "a.bmp")
    monkeypatch.setattr(uploads, "MAX_PIXELS", 9_999)
    with pytest.raises(SparseSightError, match=r"'a\.bmp' has 100 x 100 = 10,000 pixels"):
        Uploads(tmp_path).read(tmp_path / "a.bmp")
    monkeypatch.setattr(uploads, "MAX_BYTES", size - 1)
    with pytest.raises(SparseSightError, match="more than the limit of"):
        Uploads(tmp_path).read(tmp_path / "a.bmp")


def test_nothing_and_what_is_gone(tmp_path: Path) -> None:
    with pytest.raises(SparseSightError, match="there is no picture: upload one"):
        Uploads(tmp_path).read(None)
    with pytest.raises(SparseSightError, match="not on the server") as caught:
        Uploads(tmp_path).read(tmp_path / "gone.png")
    assert str(tmp_path) not in str(caught.value)
