"""The page that shows the scenes: pictures, questions and answers.

    python benchmarks/scene_gallery.py

Writes docs/scenes/README.md and the pictures beside it: the first scenes of three splits, none left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from sparsesight.scenes.dataset import SPLITS, examples
from sparsesight.scenes.objects import OWNED_PIXELS
from sparsesight.scenes.questions import Question
from sparsesight.scenes.scenes import PATCH, SIDE, VERSION, Scene

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "scenes"
SHOWN = {"test": 6, "occluded": 2, "clutter": 2}  # split -> scenes
ZOOM = 2  # of the picture with outlines

PAGE = """# Scenes

Rendered pictures and questions with known answers, from `sparsesight.scenes.dataset`. This page shows the first
scenes of three of its splits, none left out, with all their questions. `python benchmarks/scene_gallery.py` made it,
from version {version} of the scenes (`scenes.VERSION`).

A scene is a square of {side} x {side} pixels with {low} to {high} objects on a textured ground. An object has a
shape, a colour and one of two sizes; a card also carries a letter. An evaluation split asks one question of each of
nine kinds, where the scene allows it.
"""

OWNERS = """
## Who owns which patch

![The first test scene, with the owned patches outlined](owners.jpg)

The first test scene again. Its objects own {owned} of {patches} patches of {patch} x {patch} pixels, or {share:.0%}.
A patch belongs to the object that covers most of it, if that is at least {least} pixels; the patch in the middle of an
object is always its own, because a ring is hollow there. A line runs around the patches of each object.
"""


def outlined(scene: Scene) -> Image.Image:
    """The picture enlarged, with a line around the patches of each object, and a legend below."""
    side, cell = SIDE * ZOOM, PATCH * ZOOM
    picture = Image.new("RGB", (side, side + 28), "white")
    picture.paste(scene.image.resize((side, side), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(picture)
    # One more patch of "nobody" all around, so that the rim of the picture has neighbours too
    owner = np.pad(scene.owner, 1, constant_values=-1)
    lines = []
    for axis in (0, 1):
        before, after = (np.delete(owner, end, axis) for end in (-1, 0))
        for row, column in np.argwhere(before != after).tolist():
            if axis == 0:
                lines.append((column - 1, row, column, row))
            else:
                lines.append((column, row - 1, column, row))
    for color, width in (("black", 5), ("white", 1)):
        for line in lines:
            draw.line([min(place * cell, side - 1) for place in line], color, width)
    draw.line([12, side + 14, 52, side + 14], "black", 5)
    draw.line([12, side + 14, 52, side + 14], "white", 1)
    draw.text(
        (62, side + 8), "border between the patches of one object and those of others or of none", "black"
    )
    return picture


class Asked(Protocol):
    """An example of any data set of scenes."""

    @property
    def question(self) -> Question: ...


def table(found: Sequence[Asked]) -> str:
    """The questions and answers of a picture, in Markdown."""
    rows = [f"| {one.question.kind} | {one.question.text} | {one.question.answer} |" for one in found]
    return "\n".join(["| kind | question | answer |", "| --- | --- | --- |", *rows])


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    low, high = SPLITS["test"].recipe.objects
    page = [PAGE.format(version=VERSION, side=SIDE, low=low, high=high)]
    for split, number in SHOWN.items():
        page.append(f"\n## {split}: {SPLITS[split].about}\n")
        for seed, group in groupby(examples(split, number), lambda one: one.scene.seed):
            found = list(group)
            name = f"{split}-{seed}.jpg"
            found[0].image.save(FOLDER / name, quality=85)
            page.append(
                f"\n![Scene {seed}: {len(found[0].scene.objects)} objects]({name})\n\n{table(found)}\n"
            )
    scene = next(examples("test")).scene
    outlined(scene).save(FOLDER / "owners.jpg", quality=85)
    owned = scene.owner >= 0
    page.append(
        OWNERS.format(
            patch=PATCH,
            least=OWNED_PIXELS,
            owned=int(owned.sum()),
            patches=owned.size,
            share=float(owned.mean()),
        )
    )
    (FOLDER / "README.md").write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
