"""The scenes as a data set: named splits that are the same for everyone, image and question side by side.

    for example in examples("test"):
        example.image, example.question.text, example.question.answer

A split's name and `scenes.VERSION` together define its content exactly. The evaluation splits have one question
of every kind per scene, alternately about a small and a large object where both exist, so that kinds and sizes
are balanced. "train" has many questions per scene, in the proportions of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import Image

from ..errors import SparseSightError
from ..suggestions import did_you_mean
from .drawing import Rng
from .objects import Recipe
from .questions import KINDS, Question
from .scenes import PLAIN, Scene, draw, questions, render


@dataclass(frozen=True)
class Split:
    """Scenes of consecutive seeds."""

    name: str
    first_seed: int
    scenes: int
    about: str
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
    if split not in SPLITS:
        raise SparseSightError(
            f"split={split!r} does not exist: choose one of {', '.join(SPLITS)}{did_you_mean(split, list(SPLITS))}"
        )
    chosen = SPLITS[split]
    wanted = chosen.scenes if scenes is None else scenes
    if not 0 <= wanted <= chosen.scenes:
        raise SparseSightError(f"scenes={scenes!r} is not possible: {split!r} has {chosen.scenes} scenes")
    if workers < 1:
        raise SparseSightError(f"workers={workers!r} is not possible: give at least 1")
    return _examples(chosen, wanted, workers)


def _examples(split: Split, scenes: int, workers: int) -> Iterator[Example]:
    make = partial(_scene, split)
    if workers == 1:
        for index in range(scenes):
            yield from make(index)
        return
    block = 32 * workers  # handed out at a time, so that pictures nobody has read yet do not pile up
    with ProcessPoolExecutor(workers) as pool:
        for first in range(0, scenes, block):
            for made in pool.map(make, range(first, min(first + block, scenes)), chunksize=8):
                yield from made


def _scene(split: Split, index: int) -> list[Example]:
    """All the examples of one scene."""
    scene = render(split.first_seed + index, split.recipe)
    asked = questions(scene, split.per_scene) if split.per_scene else _one_of_each_kind(scene, index)
    return [
        Example(f"{split.name}/{index:04d}/{number}", scene, question, _size(scene, question))
        for number, question in enumerate(asked)
    ]


def _one_of_each_kind(scene: Scene, index: int) -> list[Question]:
    rng = Rng([scene.seed, 2])
    asked = []
    for number, (_, ask) in enumerate(KINDS.values()):
        turn = ("small", "large")[(index + number) % 2]
        weight = {"small": 0.0, "large": 0.0, "none": 0.0}
        options = [(share, option, _size(scene, option)) for share, option in ask(scene.objects)]
        for share, _, size in options:
            weight[size] += share
        if not weight[turn]:
            turn = "large" if turn == "small" else "small"
        # The objects of the other size hand their weight on, so that "no" and "0" stay as likely as they were.
        factor = {turn: (weight["small"] + weight["large"]) / (weight[turn] or 1), "none": 1.0}
        fitting = [(share * factor[size], option) for share, option, size in options if size in factor]
        if fitting:
            asked.append(fitting[draw(rng, [share for share, _ in fitting])][1])
    return asked


def _size(scene: Scene, question: Question) -> str:
    return scene.objects[question.objects[0]].size if question.objects else "none"
