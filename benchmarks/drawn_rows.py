"""Twenty pictures that were composed by hand, as a new user would bring them, each with a question and its answer.

    python benchmarks/drawn_rows.py outputs/drawn
    sparsesight tune outputs/drawn/rows.jsonl --keep 0.75

Seven show things (a house, a tree, a cat, a clock, a word, a boat, a face), thirteen the shapes and letters that the
bundled models know. Sizes differ, and no seed is involved.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Draw = ImageDraw.ImageDraw
Strokes = list[list[tuple[int, int]]]

R, G, B, Y = (215, 40, 40), (40, 160, 60), (45, 80, 215), (235, 215, 50)
P, O, C, W = (140, 50, 170), (240, 135, 30), (60, 205, 215), (240, 240, 240)  # noqa: E741
GROUND, BLACK = (105, 98, 92), (20, 20, 20)


class Pages:
    """The pictures of a folder, one after the other, and their rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[dict[str, str]]()
        self.image = Image.new("RGB", (1, 1))

    def new(self, width: int = 336, height: int = 336, ground: Color = GROUND) -> Draw:
        self.image = Image.new("RGB", (width, height), ground)
        return ImageDraw.Draw(self.image)

    def save(self, name: str, question: str, answer: str) -> None:
        self.image.save(self.folder / name)
        self.rows.append({"image": name, "question": question, "answer": answer})


def star(d: Draw, x: float, y: float, r: float, color: Color) -> None:
    lengths = [r if i % 2 == 0 else r * 0.45 for i in range(10)]
    turns = [i * math.pi / 5 for i in range(10)]
    d.polygon(
        [(x + n * math.sin(a), y - n * math.cos(a)) for n, a in zip(lengths, turns, strict=True)], fill=color
    )


def heart(d: Draw, x: float, y: float, s: float, color: Color) -> None:
    d.ellipse((x - s, y - s * 0.8, x, y + 0.2 * s), fill=color)
    d.ellipse((x, y - s * 0.8, x + s, y + 0.2 * s), fill=color)
    d.polygon([(x - s * 0.95, y - 0.1 * s), (x + s * 0.95, y - 0.1 * s), (x, y + s)], fill=color)


def cross(d: Draw, x: float, y: float, s: float, color: Color) -> None:
    d.rectangle((x - s, y - s * 0.36, x + s, y + s * 0.36), fill=color)
    d.rectangle((x - s * 0.36, y - s, x + s * 0.36, y + s), fill=color)


def ring(d: Draw, x: float, y: float, r: float, color: Color) -> None:
    d.ellipse((x - r, y - r, x + r, y + r), outline=color, width=int(r * 0.5))


def card(d: Draw, x: float, y: float, s: float, color: Color, strokes: Strokes) -> None:
    d.rounded_rectangle((x - s, y - s, x + s, y + s), radius=s * 0.36, fill=color)
    for stroke in strokes:
        points = [(x + (a - 10) * s * 0.08, y + (b - 10) * s * 0.08) for a, b in stroke]
        d.line(points, fill=(25, 25, 25), width=int(s * 0.2), joint="curve")


def things(page: Pages) -> None:
    # a house with a red roof and a sun
    d = page.new(336, 336, (150, 180, 200))
    d.rectangle((0, 250, 336, 336), fill=(80, 120, 70))
    d.rectangle((90, 150, 250, 280), fill=W)
    d.polygon([(75, 152), (170, 70), (265, 152)], fill=R)
    d.rectangle((150, 205, 190, 280), fill=(110, 70, 40))
    d.rectangle((105, 170, 140, 200), fill=C)
    d.rectangle((200, 170, 235, 200), fill=C)
    d.ellipse((270, 20, 320, 70), fill=Y)
    page.save("01-house.png", "What color is the triangle?", "red")
    # a tree with apples
    d = page.new(300, 400, (160, 190, 215))
    d.rectangle((135, 230, 165, 380), fill=(100, 65, 40))
    for x, y in ((90, 90), (150, 60), (210, 95), (110, 160), (190, 165), (150, 120)):
        d.ellipse((x - 55, y - 50, x + 55, y + 50), fill=G)
    for x, y in ((100, 100), (170, 75), (200, 150), (135, 170)):
        d.ellipse((x - 12, y - 12, x + 12, y + 12), fill=R)
    page.save("02-tree.png", "How many red circles are there?", "4")
    # a cat's face
    d = page.new(336, 336, (120, 110, 105))
    d.ellipse((70, 90, 266, 286), fill=O)
    d.polygon([(80, 140), (85, 40), (150, 100)], fill=O)
    d.polygon([(256, 140), (251, 40), (186, 100)], fill=O)
    for x in (125, 211):
        d.ellipse((x - 20, 150, x + 20, 190), fill=G)
        d.ellipse((x - 6, 152, x + 6, 188), fill=(10, 10, 10))
    d.polygon([(158, 210), (178, 210), (168, 226)], fill=(200, 90, 110))
    for k in (-14, 0, 14):
        d.line((60, 225 + k, 140, 228 + k // 3), fill=W, width=3)
        d.line((276, 225 + k, 196, 228 + k // 3), fill=W, width=3)
    page.save("03-cat.png", "Is there a green circle?", "yes")
    # a clock at ten past ten
    d = page.new(360, 360, (90, 90, 100))
    d.ellipse((40, 40, 320, 320), fill=W, outline=B, width=14)
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), math.cos(hour * math.pi / 6)
        d.line((180 + 112 * x, 180 - 112 * y, 180 + 126 * x, 180 - 126 * y), fill=BLACK, width=6)
    d.line((180, 180, 180 - 62 * math.sin(math.pi / 3), 180 - 62 * math.cos(math.pi / 3)), fill=R, width=10)
    d.line(
        (180, 180, 180 + 100 * math.sin(math.pi / 3), 180 - 100 * math.cos(math.pi / 3)), fill=BLACK, width=7
    )
    page.save("04-clock.png", "What color is the ring?", "blue")
    # the word HELLO, written by pen strokes
    d = page.new(480, 200, (225, 220, 205))
    ink = (30, 40, 110)
    for st in (
        [(40, 40), (38, 150)],
        [(40, 95), (95, 92)],
        [(96, 42), (93, 152)],
        [(175, 45), (130, 47), (128, 150), (178, 148)],
        [(130, 97), (168, 95)],
        [(210, 40), (208, 150), (250, 148)],
        [(285, 42), (283, 151), (326, 147)],
    ):
        d.line(st, fill=ink, width=9, joint="curve")
    d.ellipse((355, 50, 430, 150), outline=ink, width=9)
    page.save("05-hello.png", "What shape is the blue object?", "ring")
    # a boat
    d = page.new(400, 300, (170, 200, 220))
    d.rectangle((0, 200, 400, 300), fill=B)
    d.polygon([(90, 190), (310, 190), (270, 240), (130, 240)], fill=(130, 60, 40))
    d.line((195, 60, 195, 190), fill=(60, 40, 30), width=6)
    d.polygon([(200, 65), (200, 180), (290, 180)], fill=W)
    d.polygon([(188, 80), (188, 180), (120, 180)], fill=Y)
    page.save("06-boat.png", "What shape is the yellow object?", "triangle")
    # a face of simple forms
    d = page.new(336, 336, (100, 115, 95))
    d.ellipse((58, 58, 278, 278), fill=Y)
    d.ellipse((110, 120, 140, 150), fill=BLACK)
    d.ellipse((196, 120, 226, 150), fill=BLACK)
    d.arc((110, 140, 226, 240), 20, 160, fill=R, width=8)
    page.save("07-face.png", "What color is the large circle?", "yellow")


def shapes(page: Pages) -> None:
    d = page.new()
    d.ellipse((30, 30, 92, 92), fill=R)
    d.rectangle((220, 40, 280, 100), fill=B)
    star(d, 90, 250, 34, Y)
    cross(d, 250, 250, 30, G)
    heart(d, 168, 160, 30, P)
    d.ellipse((150, 270, 196, 316), fill=C)
    page.save("08-six.png", "What shape is the yellow object?", "star")
    d = page.new(336, 336, (96, 104, 110))
    for x, y in ((60, 60), (170, 70), (270, 55), (110, 170), (230, 180)):
        d.rectangle((x - 22, y - 22, x + 22, y + 22), fill=B)
    d.polygon([(60, 300), (92, 240), (124, 300)], fill=O)
    ring(d, 250, 275, 32, W)
    page.save("09-squares.png", "How many blue squares are there?", "5")
    d = page.new(336, 336, (112, 100, 90))
    card(d, 90, 90, 34, C, [[(4, 18), (4, 2), (12, 2), (16, 6), (12, 10), (4, 10)]])
    card(d, 240, 230, 34, O, [[(16, 2), (4, 2), (4, 18), (16, 18)], [(4, 10), (14, 10)]])
    star(d, 240, 80, 33, R)
    ring(d, 85, 245, 32, G)
    d.ellipse((145, 145, 190, 190), fill=P)
    page.save("10-cards.png", "What letter is on the orange card?", "E")
    d = page.new(336, 336, (90, 95, 85))
    d.polygon([(60, 120), (92, 56), (124, 120)], fill=R)
    d.polygon([(230, 300), (262, 236), (294, 300)], fill=G)
    d.ellipse((220, 50, 284, 114), fill=R)
    heart(d, 80, 260, 30, G)
    cross(d, 168, 168, 24, W)
    page.save("11-two-triangles.png", "Where is the green triangle?", "bottom right")
    d = page.new(336, 336, (110, 105, 115))
    d.ellipse((40, 200, 104, 264), fill=O)
    d.ellipse((230, 60, 276, 106), fill=O)
    d.rectangle((60, 60, 122, 122), fill=C)
    d.polygon([(250, 200), (282, 232), (250, 264), (218, 232)], fill=C)
    star(d, 165, 165, 24, P)
    page.save("12-orange.png", "What size is the cyan square?", "large")
    d = page.new(336, 336, (85, 90, 100))
    heart(d, 70, 70, 30, R)
    heart(d, 170, 80, 24, Y)
    heart(d, 265, 70, 30, C)
    d.ellipse((50, 180, 96, 226), fill=B)
    d.rectangle((145, 175, 207, 237), fill=G)
    ring(d, 270, 210, 32, O)
    cross(d, 165, 295, 28, P)
    page.save("13-hearts.png", "How many hearts are there?", "3")
    d = page.new(336, 336, (120, 115, 100))
    ring(d, 80, 80, 32, B)
    ring(d, 250, 85, 24, R)
    d.polygon([(140, 190), (172, 126), (204, 190)], fill=Y)
    d.rectangle((40, 230, 102, 292), fill=P)
    d.ellipse((230, 235, 292, 297), fill=W)
    page.save("14-rings.png", "What color is the small ring?", "red")
    d = page.new(336, 336, (98, 92, 104))
    cross(d, 70, 250, 30, O)
    cross(d, 260, 250, 30, C)
    star(d, 70, 75, 34, W)
    star(d, 260, 80, 34, G)
    d.ellipse((140, 140, 202, 202), fill=R)
    page.save("15-symmetric.png", "Is there a cyan star?", "no")
    d = page.new(336, 336, (105, 112, 98))
    d.rectangle((30, 140, 92, 202), fill=Y)
    d.rectangle((245, 140, 307, 202), fill=P)
    d.ellipse((140, 25, 202, 87), fill=Y)
    d.polygon([(135, 310), (168, 246), (201, 310)], fill=P)
    heart(d, 168, 170, 28, B)
    page.save("16-around.png", "Is the yellow square left of the purple square?", "yes")
    d = page.new(336, 336, (88, 88, 88))
    colors = [R, G, B, Y, P, O, C, W]
    for i, (x, y) in enumerate(
        ((50, 50), (130, 60), (215, 50), (290, 70), (60, 150), (150, 160), (235, 150), (290, 230))
    ):
        d.ellipse((x - 22, y - 22, x + 22, y + 22), fill=colors[i])
    star(d, 80, 265, 34, R)
    d.rectangle((160, 240, 222, 302), fill=G)
    page.save("17-circles.png", "What shape is the large red object?", "star")
    d = page.new(336, 336, (118, 108, 112))
    card(d, 80, 240, 34, Y, [[(4, 2), (4, 18)], [(16, 2), (16, 18)], [(4, 10), (16, 10)]])
    card(d, 250, 80, 34, G, [[(3, 2), (17, 2)], [(10, 2), (10, 18)]])
    d.polygon([(80, 40), (112, 80), (80, 120), (48, 80)], fill=R)
    cross(d, 250, 250, 30, B)
    ring(d, 165, 165, 24, O)
    page.save("18-letters.png", "What letter is on the green card?", "T")
    d = page.new(336, 336, (95, 100, 90))
    for x, y in ((70, 70), (170, 60), (260, 90)):
        star(d, x, y, 26, C)
    for x, y in ((80, 200), (180, 230)):
        d.polygon([(x - 28, y + 28), (x, y - 28), (x + 28, y + 28)], fill=O)
    d.rectangle((240, 220, 300, 280), fill=R)
    page.save("19-stars.png", "Are there more cyan stars than orange triangles?", "yes")
    d = page.new(500, 375, (100, 95, 90))
    d.ellipse((40, 40, 140, 140), fill=P)
    d.rectangle((330, 60, 430, 160), fill=O)
    heart(d, 240, 260, 55, W)
    d.polygon([(60, 340), (110, 240), (160, 340)], fill=B)
    star(d, 410, 280, 52, G)
    page.save("20-large.png", "What color is the heart?", "white")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="a folder")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    pages = Pages(folder)
    things(pages)
    shapes(pages)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pages.rows))


if __name__ == "__main__":
    main()
