"""What is told of a region, the visual tokens that are judged together: plain data that needs no tensors."""

from __future__ import annotations

from dataclasses import dataclass

AFTER, BEFORE_PICTURE, NOTHING = "after the picture", "before the picture", "no text"


@dataclass(frozen=True)
class RegionFacts:
    """What is told of a region.

    Attributes:
        turn: number of its turn or document in the prompt, from 0.
        text: how many text tokens judge.
        where: where these stand: :data:`AFTER` it, :data:`BEFORE_PICTURE`, or :data:`NOTHING` judges.
    """

    turn: int
    text: int
    where: str
