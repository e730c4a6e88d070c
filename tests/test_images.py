"""Pictures from files: every kind becomes the RGB picture one sees, and every bad one a sentence."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from sparsesight import SparseSightError
from sparsesight.images import MAX_ASPECT, MAX_PIXELS, open_image


def colours(height: int = 6, width: int = 9) -> np.ndarray[Any, Any]:
    """A picture [height, width, 3] in which every pixel is different, so that a wrong turn shows."""
    values = np.arange(height * width * 3).reshape(height, width, 3) * 255 // (height * width * 3)
    return values.astype(np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and has next to no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


def refusal(path: str | Path, **options: Any) -> str:
    """The one sentence that refuses a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line on the terminal
        with pytest.raises(SparseSightError) as caught:
            open_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(path)) in message
    assert ": " in message  # the problem, then what to do
    return message


# What is refused


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.png")
    assert "does not exist" in refusal(tmp_path / "no" / "such" / "folder.png")


def test_no_name() -> None:
    assert "names no file" in refusal("")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    assert "cannot be read" in refusal("a\0b.png")


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    assert r"a\nb.png" in refusal(tmp_path / "a\nb.png")


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert "is empty" in refusal(tmp_path / "a.png")


def test_something_else_than_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture at all\n" * 100)
    assert "is not a picture" in refusal(tmp_path / "a.png")


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "not a regular file" in refusal(tmp_path / "a.png")
    assert "not a regular file" in refusal("/dev/zero")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file(tmp_path: Path, suffix: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    monkeypatch.setattr(
        ImageFile, "LOAD_TRUNCATED_IMAGES", True
    )  # as some libraries do when they are imported
    message = refusal(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert "damaged" in message or "is not a picture" in message
    assert "damaged" in message or share == 0.1 or suffix in ("tiff", "webp")


def test_a_damaged_body(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(colours(60, 60)))
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    "side",
    [
        pytest.param(8_001, id="above the limit"),
        pytest.param(10_000, id="above the size that Pillow warns about"),
        pytest.param(100_000, id="above the size that Pillow refuses"),
    ],
)
def test_an_enormous_picture_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    # Decoding these files would end in "damaged": they have no pixels.
    message = refusal(png_header(tmp_path / "bomb.png", side, side))
    assert f"{side * side:,} pixels" in message
    assert f"{MAX_PIXELS:,}" in message


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(colours(6, 9)))
    assert open_image(path, max_pixels=54).size == (9, 6)
    message = refusal(path, max_pixels=53)
    assert "9 x 6 = 54 pixels" in message
    assert "limit of 53" in message


def test_a_strip_that_resizing_would_blow_up(tmp_path: Path) -> None:
    assert f"{MAX_ASPECT} times" in refusal(saved(tmp_path, Image.new("RGB", (MAX_ASPECT + 1, 1))))
    assert f"{MAX_ASPECT} times" in refusal(saved(tmp_path, Image.new("RGB", (1, MAX_ASPECT + 1))))
    assert open_image(saved(tmp_path, Image.new("RGB", (MAX_ASPECT, 1)))).size == (MAX_ASPECT, 1)


# What is read


def test_rgb_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(colours()))
    for given in (path, str(path)):
        image = open_image(given)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), colours())


def test_the_picture_outlives_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(colours()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = open_image(path)
    path.unlink()
    assert np.array_equal(np.asarray(image), colours())
    assert type(image) is Image.Image


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (2, 1)])
def test_the_smallest_pictures_pass_through_clip(tmp_path: Path, size: tuple[int, int]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = open_image(saved(tmp_path, Image.new("RGB", size, (10, 20, 30))))
    assert image.size == size
    process = CLIPImageProcessorPil(do_normalize=False, do_rescale=False)
    pixels = process(image, return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 224, 224)
    assert pixels.float().mean((1, 2)).round().tolist() == [10, 20, 30]


def test_grey(tmp_path: Path) -> None:
    grey = colours()[..., 0]
    image = open_image(saved(tmp_path, Image.fromarray(grey)))
    assert np.array_equal(np.asarray(image), np.stack([grey] * 3, -1))


def test_one_bit(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    image = open_image(saved(tmp_path, image))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


def test_a_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 210, 40])
    image.putpixel((1, 0), 1)
    image = open_image(saved(tmp_path, image))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(200, 10, 20), (30, 210, 40)]


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (0, 100, 200, alpha))
    image = open_image(saved(tmp_path, image))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (204, 224, 244), (0, 100, 200)]


def test_grey_with_transparency(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (50, 255))
    image = open_image(saved(tmp_path, image))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (50, 50, 50)]


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "1"])
def test_a_transparent_colour(tmp_path: Path, mode: str) -> None:
    """Formats may name one colour that is to be seen through, black here."""
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 255, 255) if mode in ("L", "1") else (250, 0, 0))
    image = (
        image.convert(mode, palette=Image.Palette.ADAPTIVE, colors=2) if mode == "P" else image.convert(mode)
    )
    black = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    other = Image.Image.convert(image, "RGB").getpixel((1, 0))
    image = open_image(saved(tmp_path, image, transparency=black))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), other]


def test_grey_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(deep))
    assert path.read_bytes()[24] == 16  # bits, in the PNG header
    assert np.asarray(open_image(path))[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_integers_of_32_bits_are_taken_for_16(tmp_path: Path) -> None:
    wide = np.array([[-5, 0, 257 * 100, 65535, 10**6]], dtype=np.int32)
    path = saved(tmp_path, Image.fromarray(wide), "a.tiff")
    assert np.asarray(open_image(path))[0, :, 0].tolist() == [0, 0, 100, 255, 255]


@pytest.mark.parametrize(
    ("values", "shades"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([-3.0, 0.0, 3.0], [0, 128, 255]), ([7.0] * 3, [0] * 3)],
)
def test_floating_point_is_stretched(tmp_path: Path, values: list[float], shades: list[int]) -> None:
    path = saved(tmp_path, Image.fromarray(np.array([values], dtype=np.float32)), "a.tiff")
    assert np.asarray(open_image(path))[0, :, 2].tolist() == shades


@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
def test_cmyk(tmp_path: Path, name: str) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixel = open_image(saved(tmp_path, red, name)).getpixel((8, 8))
    assert np.abs(np.subtract(pixel, (255, 0, 0))).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = colours()
    stored = {  # how a camera held this way stores the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    path = saved(tmp_path, image, exif=exif)
    opened = open_image(path)
    assert np.array_equal(np.asarray(opened), upright)
    assert opened.getexif().get(0x0112, 1) == 1  # nobody must turn it again


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path, frames[0], f"a.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    with Image.open(path) as stored:
        assert stored.n_frames == 3
    assert open_image(path).getpixel((4, 4)) == (255, 0, 0)
