"""The scenes as a data set: named splits that are the same for everyone, image and question side by side.

    for example in examples("test"):
        example.image, example.question.text, example.question.answer

A split's name and `scenes.VERSION` together define its content exactly. The evaluation splits have one question
of every kind per scene, alternately about a small and a large object where both exist, so that kinds and sizes
are balanced. "train" has many questions per scene, in the proportions of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from PIL import Image

from .objects import Recipe
from .questions import KINDS, Question
from .scenes import PLAIN, Scene, questions, render
from .splits import Seeds, choose, in_order, one_of_each_kind


@dataclass(frozen=True)
class Split(Seeds):
    """Scenes of consecutive seeds."""

    recipe: Recipe = PLAIN
    per_scene: int = 0  # questions a scene; 0 asks one of every kind, with sizes in turn


SMALL = Recipe(small=(24, 30), large=(40, 46), foreground=0, bars=0.5)
CLUTTER = Recipe(objects=(20, 20), litter=90)

SPLITS = {
    split.name: split
    for split in (
        Split(
            "train",
            2_000_000,
            100_000,
            "what the language model was trained on, and more like it",
            per_scene=64,
        ),
        Split("val", 900_000, 120, "for choices made while training"),
        Split("test", 3_000_000, 240, "the figures of the model card"),
        Split("test-b", 4_000_000, 240, "as test, from other seeds: to check that a result is not luck"),
        Split(
            "test-c",
            7_000_000,
            240,
            "as test: what the first form of `halves` was compared on",
        ),
        Split(
            "test-d",
            8_000_000,
            240,
            "as test: to compare rules that were chosen on others, with none chosen here",
        ),
        Split("occluded", 5_000_000, 120, "objects two thirds as large, half of them partly hidden", SMALL),
        Split("clutter", 6_000_000, 120, "20 objects on every scene, among 90 dark scraps", CLUTTER),
    )
}


@dataclass(frozen=True, eq=False)
class Example:
    """A question about a scene; `size` is that of the first object it rests on, "none" if it rests on none.

    It is a size to report by for the kinds in `asking.SINGLE_OBJECT` alone: the others rest on several objects.
    """

    id: str
    scene: Scene
    question: Question
    size: str

    @property
    def image(self) -> Image.Image:
        """The picture, RGB, 336 x 336 pixels."""
        return self.scene.image


def examples(split: str, scenes: int | None = None, workers: int = 1) -> Iterator[Example]:
    """The examples of a split in their fixed order, those of one scene together.

    Args:
        split: one of `SPLITS`.
        scenes: number of scenes, the first ones; default: all.
        workers: processes that render; with 1, this process does.

    Raises:
        SparseSightError: no such split, or it has fewer scenes, or fewer than one worker.
    """
    chosen, wanted = choose(SPLITS, split, scenes, workers)
    return in_order(partial(_scene, chosen), wanted, workers)


def _scene(split: Split, index: int) -> list[Example]:
    """All the examples of one scene."""
    scene = render(split.first_seed + index, split.recipe)
    asked = questions(scene, split.per_scene) if split.per_scene else _one_of_each_kind(scene, index)
    return [
        Example(f"{split.name}/{index:04d}/{number}", scene, question, _size(scene, question))
        for number, question in enumerate(asked)
    ]


def _one_of_each_kind(scene: Scene, index: int) -> list[Question]:
    kinds = [list(ask(scene.objects)) for _, ask in KINDS.values()]
    return one_of_each_kind(kinds, partial(_size, scene), scene.seed, index)


def _size(scene: Scene, question: Question) -> str:
    return scene.objects[question.objects[0]].size if question.objects else "none"
