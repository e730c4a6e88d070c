"""The tasks of rendered scenes, by name; ``NAME@64`` asks about pictures with no more detail than 64 patches show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

from PIL.Image import Image, Resampling

from ..errors import SparseSightError
from ..scenes.drawing import SIDE
from ..scenes.mixed.answers import score
from ..scenes.mixed.packages import check_installed
from ..scenes.objects import GRID
from .cell_file import CellFile
from .clip_scenes import clip_items, static_items
from .image_task import Scorer, exact, pictures_of
from .mixed_scenes import mixed_items
from .records import Item
from .scene_task import ANSWER_TOKENS, scene_items
from .sweep import DENSE

SENTENCE_TOKENS = 40  # of an answer to a mixed scene


@dataclass(frozen=True)
class SceneSet:
    """A task: the split it asks, and how.

    Attributes:
        split: name of the split.
        read: its questions, the first ones of a number or all.
        check: refuses, with a sentence, if something that it needs is not installed.
        scorer: how right an answer is.
        answer_tokens: longest answer of a model that answers in the words it was trained on.
        tokens: patches whose detail the pictures have; None for all.
        unit: what its questions are about, in the singular.
    """

    split: str
    read: Callable[[str, int | None], list[Item]] = scene_items
    check: Callable[[], None] = lambda: None
    scorer: Scorer = exact
    answer_tokens: int = ANSWER_TOKENS
    tokens: int | None = None
    unit: str = "scene"

    def items(self, limit: int | None = None) -> list[Item]:
        """The questions with their pictures."""
        found = self.read(self.split, limit)
        if self.tokens is None:
            return found
        small: dict[int, Image | tuple[Image, ...]] = {}  # a picture has many questions
        for item in found:
            small.setdefault(id(item.request), downsampled(item.request, self.tokens))
        return [replace(item, request=small[id(item.request)]) for item in found]


def _mixed(split: str) -> SceneSet:
    return SceneSet(split, mixed_items, check_installed, score, SENTENCE_TOKENS)


SCENES = {
    "scenes": SceneSet("test"),
    "scenes-b": SceneSet("test-b"),
    "scenes-c": SceneSet("test-c"),
    "scenes-d": SceneSet("test-d"),
    "scenes-occluded": SceneSet("occluded"),
    "scenes-clutter": SceneSet("clutter"),
    "scenes-mixed": _mixed("test"),
    "scenes-mixed-b": _mixed("test-b"),
    "scenes-new-things": _mixed("new-things"),
    "scenes-new-fonts": _mixed("new-fonts"),
    "scenes-new-words": _mixed("new-words"),
    "clips": SceneSet("test", clip_items, scorer=score, answer_tokens=SENTENCE_TOKENS, unit="clip"),
    "clips-static": SceneSet("test", static_items, unit="clip"),
    "clips-static-b": SceneSet("test-b", static_items, unit="clip"),
}


def scene_set(task: str) -> SceneSet | None:
    """The set of a task's name, or None if it is no task of scenes.

    Raises:
        SparseSightError: ``NAME@N`` with an N that is no number of patches of a picture.
    """
    name, at, number = task.partition("@")
    if name not in SCENES:
        return None
    if not at:
        return SCENES[name]
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= GRID**2 and number[0] != "0"):
        raise SparseSightError(f"--tasks {task!r}: give a number of patches from 1 to {GRID**2} after the @")
    return replace(SCENES[name], tokens=int(number))


def downsampled(request: Image | tuple[Image, ...], tokens: int) -> Image | tuple[Image, ...]:
    """Pictures of the same size with as many pixels as ``tokens`` patches have, shared by the pictures of a prompt.

    What downsampling loses is lost, and the model is asked as it is otherwise: its vision tower takes one size only.
    """
    pictures = pictures_of(request)
    side = max(1, round(SIDE / GRID * sqrt(tokens / len(pictures))))
    small = tuple(
        one.resize((side, side), Resampling.BICUBIC).resize(one.size, Resampling.BICUBIC) for one in pictures
    )
    return small if isinstance(request, tuple) else small[0]


def by_difficulty(task: str, items: list[Item], folder: Path) -> list[Item]:
    """The items of a task, each with the tag "difficult" or "simple".

    Difficult is what plain downsampling gets wrong: what the model answered wrongly in ``TASK@N`` (an answer that is
    right by degrees: less than half right). The idea is VTC-Bench's (Liao et al., arXiv:2510.07143, section 4).

    Args:
        task: its name.
        items: its items.
        folder: of a run that asked ``TASK@N`` of the dense model.

    Raises:
        SparseSightError: a folder without these answers, or without one to some item.
    """
    cell = _at_less_detail(task, folder)
    right = {sample.id: sample.scores["correct"] >= 0.5 for sample in cell.samples()}
    missing = [item.id for item in items if item.id not in right]
    if missing:
        raise SparseSightError(
            f"--difficult {str(folder)!r} holds no answer to {len(missing)} questions of {task}, the first is "
            f"{missing[0]!r}: run {cell.final.parent.name} with the same --limit"
        )
    return [replace(item, tags=(*item.tags, "simple" if right[item.id] else "difficult")) for item in items]


def takes_difficulty(task: str) -> bool:
    """Whether questions of a task can be told apart by it: a task of scenes at full detail."""
    scenes = scene_set(task)
    return scenes is not None and scenes.tokens is None


def check_difficulty(tasks: Sequence[str], folder: Path) -> None:
    """Refuse a folder that does not tell which questions are difficult, before a model is loaded.

    Raises:
        SparseSightError: no task can be told apart by it, or the folder holds no run of one.
    """
    fitting = [task for task in tasks if takes_difficulty(task)]
    if not fitting:
        raise SparseSightError(
            f"--difficult {str(folder)!r} is for tasks of scenes at full detail, such as {', '.join(SCENES)}: "
            f"--tasks names {', '.join(tasks)}"
        )
    for task in fitting:
        _at_less_detail(task, folder)


def _at_less_detail(task: str, folder: Path) -> CellFile:
    """The answers of the dense model to ``TASK@N`` in a run folder.

    Raises:
        SparseSightError: if the folder holds none, or those of several N.
    """
    samples = folder / "samples"
    stems = sorted(samples.glob(f"{task}@*")) if samples.is_dir() else []
    done = [cell for cell in (CellFile(stem / DENSE, 0, folder) for stem in stems) if cell.done]
    if len(done) != 1:
        raise SparseSightError(
            f"--difficult {str(folder)!r} holds {len(done)} finished runs of {task}@N: answer one first, such as "
            f"sparsesight eval --tasks {task}@64 --methods dense --out {folder}"
        )
    return done[0]
