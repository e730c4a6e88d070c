"""Assigns scoring text to visual tokens, with one rule for all hosts.

A picture is scored by the text of its own turn, and a packed document by its own text. A *segment* of a sample is a
turn (from the end of the previous turn to its own end) or a packed document. A segment with visual tokens is a region,
numbered within its sample in the order of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .facts import AFTER, BEFORE_PICTURE, NOTHING, RegionFacts
from .rows import RegionSizes

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Marks:
    """Known properties of the rows of a prompt, boolean [b, n]; any of them may be unknown (None).

    Attributes:
        end: the last row of a turn, which starts the answer.
        start: the first row of the user's text in a turn.
        template: template rows: markers, role names, blanks. None: unknown, and every text row may score.
        document: the first row of each packed document except a sample's first.
        answer: rows with labels. Those after a region's last visual token, and all text after the first of them, do not
            score, nor do answers before it; labels on every row are ignored (see :func:`on_pictures`).
    """

    end: Bool[Tensor, "b n"] | None = None
    start: Bool[Tensor, "b n"] | None = None
    template: Bool[Tensor, "b n"] | None = None
    document: Bool[Tensor, "b n"] | None = None
    answer: Bool[Tensor, "b n"] | None = None


@dataclass(frozen=True)
class Regions:
    """The regions of a batch of prompts.

    Attributes:
        text: which rows are scoring text.
        number: region number of each visual or scoring row, -1 elsewhere; None if no sample has a second region.
        sizes: per region number.
        facts: per region number and sample; None where a sample has no such region.
    """

    text: Bool[Tensor, "b n"]
    number: Int[Tensor, "b n"] | None
    sizes: tuple[RegionSizes, ...]
    facts: tuple[tuple[RegionFacts | None, ...], ...]

    @property
    def in_front(self) -> list[list[bool]]:
        """Per region number and sample, whether the text comes before its picture; empty if none does."""
        where = [[fact is not None and fact.where == BEFORE_PICTURE for fact in each] for each in self.facts]
        return where if any(map(any, where)) else []


def assign(visual: Bool[Tensor, "b n"], text: Bool[Tensor, "b n"], marks: Marks) -> Regions:
    """The regions of prompts with ``visual`` rows and other rows that are ``text``; synchronises with the device twice.

    The text of a region is the text from its last visual token to the end of its turn. If that is only template, it is
    the user's text in that turn before the last visual token, without template; if there is none, the template.
    """
    row = torch.arange(visual.shape[1], device=visual.device).expand_as(visual)
    segment = _segments(visual, marks)

    def most(value: Tensor) -> Tensor:
        """The largest in every segment, -1 for none."""
        return torch.full_like(row, -1).scatter_reduce(1, segment, value, "amax")

    def where(mask: Tensor) -> Tensor:
        return torch.where(mask, row, -1)

    last = most(where(visual))
    own_last = last.gather(1, segment)
    judges = text & (own_last >= 0) & (row > own_last)
    if marks.answer is not None:
        behind = marks.answer & (row > own_last)
        start = -torch.full_like(row, -row.shape[1]).scatter_reduce(
            1, segment, torch.where(behind, -row, -row.shape[1]), "amax"
        )
        everything = (most(where(on_pictures(marks.answer, visual))) >= 0) & (start <= last + 2)
        everything = everything.gather(1, segment)
        judges = judges & ((row < start.gather(1, segment)) | everything)
    before = torch.zeros_like(
        last, dtype=torch.bool
    )  # per segment: whether the text before it is the scoring text
    if marks.template is not None:
        said = text & ~marks.template
        in_front = said & (row < own_last)
        if marks.answer is not None:  # those of earlier turns
            in_front = in_front & (~marks.answer | everything)
        if marks.start is not None:
            begin = most(where(marks.start & (row <= own_last)))
            in_front = in_front & (row >= begin.gather(1, segment))
        before = (most(where(said & judges)) < 0) & (most(where(in_front)) >= 0)
        judges = torch.where(before.gather(1, segment), in_front, judges)
    exists = last >= 0
    number = (exists.cumsum(1) - 1).gather(1, segment)
    number = torch.where(visual | judges, number, -1)
    count = max(int(exists.sum(1).max()), 1) if exists.numel() else 1
    table = [(visual & (number == i), judges & (number == i)) for i in range(count)]
    order = exists.cumsum(1) * exists
    of = [(order == i + 1) for i in range(count)]
    told = torch.stack(
        [
            torch.stack((v.sum(1), t.sum(1), (o & before).sum(1), (o * row).sum(1)))
            for (v, t), o in zip(table, of, strict=True)
        ]
    ).tolist()
    sizes = tuple(RegionSizes(tuple(v), tuple(t)) for v, t, *_ in told)
    facts = tuple(tuple(_facts(*x) for x in zip(*each, strict=True)) for each in told)
    return Regions(judges, number if count > 1 else None, sizes, facts)


def on_pictures(labelled: Bool[Tensor, "b n"], visual: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Labelled rows that are visual or right in front of visual ones, as no answer is: labels are on everything."""
    next_visual = torch.zeros_like(visual)
    next_visual[:, :-1] = visual[:, 1:]
    return labelled & (visual | next_visual)


def matches(ids: Int[Tensor, "b n"], sequences: Sequence[Sequence[int]]) -> Bool[Tensor, "b n"]:
    """The last row of every occurrence of one of the ``sequences`` of token ids."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for sequence in sequences:
        width = ids.shape[1] - len(sequence) + 1
        if not sequence or width < 1:
            continue
        here = ids[:, :width] == sequence[0]
        for i, token in enumerate(sequence[1:], 1):
            here = here & (ids[:, i : i + width] == token)
        found[:, len(sequence) - 1 :] |= here
    return found


def covered(ends: Bool[Tensor, "b n"], length: int) -> Bool[Tensor, "b n"]:
    """The rows of sequences of this length that end at ``ends``."""
    rows = ends.clone()
    for i in range(1, length):
        rows[:, :-i] |= ends[:, i:]
    return rows


def _segments(visual: Tensor, marks: Marks) -> Tensor:
    begins = torch.zeros_like(visual)
    if marks.end is not None:
        begins[:, 1:] |= marks.end[:, :-1]
    if marks.document is not None:
        begins |= marks.document
    return begins.cumsum(1)


def _facts(visual: int, text: int, before: int, segment: int) -> RegionFacts | None:
    if not visual:
        return None
    return RegionFacts(segment, text, NOTHING if not text else BEFORE_PICTURE if before else AFTER)
