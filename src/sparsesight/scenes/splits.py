"""What all data sets of rendered pictures share: named splits, their order, and questions of balanced kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ..errors import SparseSightError
from ..suggestions import did_you_mean
from .drawing import Rng
from .questions import Question
from .scenes import draw


@dataclass(frozen=True)
class Seeds:
    """A named split: pictures of consecutive seeds, and what they are for."""

    name: str
    first_seed: int
    scenes: int
    about: str


S = TypeVar("S", bound=Seeds)
E = TypeVar("E")


def choose(splits: Mapping[str, S], split: str, scenes: int | None, workers: int) -> tuple[S, int]:
    """The split of a name, and how many of its pictures are wanted: the first `scenes`, or all.

    Raises:
        SparseSightError: no such split, or it has fewer pictures, or fewer than one worker.
    """
    if split not in splits:
        raise SparseSightError(
            f"split={split!r} does not exist: choose one of {', '.join(splits)}{did_you_mean(split, list(splits))}"
        )
    chosen = splits[split]
    wanted = chosen.scenes if scenes is None else scenes
    if not 0 <= wanted <= chosen.scenes:
        raise SparseSightError(f"scenes={scenes!r} is not possible: {split!r} has {chosen.scenes} scenes")
    if workers < 1:
        raise SparseSightError(f"workers={workers!r} is not possible: give at least 1")
    return chosen, wanted


def in_order(make: Callable[[int], list[E]], scenes: int, workers: int) -> Iterator[E]:
    """What `make` gives for 0, 1, ..., one after the other, made by `workers` processes; 1 is this process."""
    if workers == 1:
        for index in range(scenes):
            yield from make(index)
        return
    block = 32 * workers  # handed out at a time, so that pictures nobody has read yet do not pile up
    with ProcessPoolExecutor(workers) as pool:
        for first in range(0, scenes, block):
            for made in pool.map(make, range(first, min(first + block, scenes)), chunksize=8):
                yield from made


def one_of_each_kind(
    kinds: Iterable[Sequence[tuple[float, Question]]],
    size: Callable[[Question], str],
    seed: int,
    index: int,
) -> list[Question]:
    """A question of every kind that a picture offers, about small and large objects in turn.

    Args:
        kinds: per kind, all its questions with their weights.
        size: of what a question is about: "small", "large" or "none".
        seed: of the picture.
        index: of the picture in its split: says whose turn it is.
    """
    rng = Rng([seed, 2])
    asked = []
    for number, weighted in enumerate(kinds):
        turn = ("small", "large")[(index + number) % 2]
        weight = {"small": 0.0, "large": 0.0, "none": 0.0}
        options = [(share, option, size(option)) for share, option in weighted]
        for share, _, about in options:
            weight[about] += share
        if not weight[turn]:
            turn = "large" if turn == "small" else "small"
        # The objects of the other size hand their weight on, so that "no" and "0" stay as likely as they were.
        factor = {turn: (weight["small"] + weight["large"]) / (weight[turn] or 1), "none": 1.0}
        fitting = [(share * factor[about], option) for share, option, about in options if about in factor]
        if fitting:
            asked.append(fitting[draw(rng, [share for share, _ in fitting])][1])
    return asked
