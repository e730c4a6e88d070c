"""Many questions behind one picture, kept apart by a mask; every one has the positions it would have alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .kernels import Search
from .pictures import ATTRIBUTES, END, KIND_NAMES, MARK, NAME, UNKNOWN, Pictures, attributes

CLOSING_WEIGHT = 0.2  # of the end of an answer in the loss, whose prediction is easy


@dataclass
class Packed:
    """What stands behind a common prefix, as tensors; `prefix` counts opening and patches."""

    prefix: int
    ids: torch.Tensor  # [pictures, m]
    positions: torch.Tensor  # [pictures, prefix + m]
    mask: (
        torch.Tensor
    )  # [pictures, 1, prefix + m, prefix + m]: 0 where attention may go, very negative where not
    at: torch.Tensor  # [targets]: flat indices into [pictures, prefix + m]
    goal: torch.Tensor  # [targets]
    weight: torch.Tensor  # [targets]
    question: np.ndarray  # [targets]: a number per text
    kind: np.ndarray  # [texts]


def pack(
    texts: list[list[tuple[tuple[int, ...], int, tuple[int, ...]]]],
    opening: int,
    visible: np.ndarray | None,
    dtype: torch.dtype,
    end: int,
    span: int = 0,
) -> Packed:
    """Texts (ids, how many are given, goal) behind `opening` tokens and the places `visible` [pictures, n] of `span`.

    The goal's first token is predicted from the last given one.
    """
    pictures = len(texts)
    n = 0 if visible is None else visible.shape[1]
    prefix, m = opening + n, max(sum(len(text[0]) for text in row) for row in texts)
    ids, segment = np.zeros((pictures, m), dtype=np.int64), np.full((pictures, m), -1)
    offset = np.zeros_like(ids)
    at, goal, question, share, number = [], [], [], [], 0
    for row, told in enumerate(texts):
        place = 0
        for k, (text, given, wanted) in enumerate(told):
            here = slice(place, place + len(text))
            ids[row, here], segment[row, here], offset[row, here] = text, k, np.arange(len(text))
            first = row * (prefix + m) + prefix + place + given - 1
            at += range(first, first + len(wanted))
            goal += wanted
            question += [number] * len(wanted)
            share += [len(wanted) ** -0.5] * len(wanted)
            number += 1
            place += len(text)
    before = [np.broadcast_to(np.arange(opening), (pictures, opening))]
    if visible is not None:
        before.append(visible + opening)
    behind = opening + span
    own = torch.from_numpy(segment)
    allowed = torch.zeros(pictures, 1, prefix + m, prefix + m, dtype=torch.bool)
    allowed[..., :prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    allowed[..., prefix:, :prefix] = True
    allowed[:, 0, prefix:, prefix:] = (own[:, :, None] == own[:, None]) & torch.ones(
        m, m, dtype=torch.bool
    ).tril()
    goals = torch.tensor(goal)
    return Packed(
        prefix=prefix,
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(np.concatenate([*before, offset + behind], axis=1)),
        mask=torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min / 2),
        at=torch.tensor(at),
        goal=goals,
        weight=torch.where(goals == end, CLOSING_WEIGHT, 1.0) * torch.tensor(share),
        question=np.array(question),
        kind=np.zeros(number, dtype=np.int64),
    )


@dataclass
class Thoughts:
    """What tokens should bring to mind, in the order of places NAME, MARK, END."""

    at: torch.Tensor  # [tokens]: flat indices into [pictures, prefix + m]
    place: torch.Tensor  # [tokens]: NAME, MARK or END
    label: torch.Tensor  # [tokens, attributes]: classes, or UNKNOWN


def questions(
    data: Pictures, rows: np.ndarray, slots: Sequence[Sequence[int]], visible: np.ndarray, dtype: torch.dtype
) -> tuple[Packed, Thoughts, Search]:
    """The questions `slots` about each of the pictures `rows`, with `visible` [pictures, n] places shown."""
    asked = [
        [data.asked(int(row), int(slot)) for slot in chosen] for row, chosen in zip(rows, slots, strict=True)
    ]
    texts = [[(one.ids, one.given, one.goal) for one in told] for told in asked]
    packed = pack(texts, len(data.prompts.opening), visible, dtype, data.prompts.end, data.span)
    packed.kind = np.array([KIND_NAMES.index(one.kind) for told in asked for one in told])
    tokens = packed.positions.shape[1]
    owner = np.take_along_axis(data.owner[rows], visible, axis=1)
    central = np.take_along_axis(data.central[rows], visible, axis=1)
    thoughts, seeks, sought = [], [], []
    for row, told in enumerate(asked):
        place = packed.prefix
        for one in told:
            for within, what, index in one.thoughts:
                label = attributes(data.objects[rows[row]][index])
                thoughts.append((row * tokens + place + within, what, label))
                seeks.append((row, place + within, one.kind == "neighbor" and what != NAME, -1))
                sought.append(owner[row] == index)
            for within, them, chained in one.seeks:
                seeks.append((row, place + within, chained, -1))
                sought.append(np.isin(owner[row], them))
            if one.counted is not None:
                label = [UNKNOWN] * (len(ATTRIBUTES) - 1) + [len(one.counted)]
                mark = one.given - len(data.prompts.closing) - 1
                thoughts += [
                    (row * tokens + place + mark, MARK, label),
                    (row * tokens + place + one.given - 1, END, label),
                ]
                seeks.append((row, place + mark, False, len(one.counted)))
                sought.append(np.isin(owner[row], one.counted) & central[row])
            place += len(one.ids)
    picture, where, chained, counted = torch.tensor(seeks, dtype=torch.long).reshape(-1, 4).unbind(1)
    wanted = torch.zeros(len(seeks), tokens)
    if sought:
        wanted[:, packed.prefix - visible.shape[1] : packed.prefix] = torch.from_numpy(
            np.stack(sought)
        ).float()
    columns = torch.tensor([(at, what, *label) for at, what, label in thoughts], dtype=torch.long)
    columns = columns.reshape(-1, 2 + len(ATTRIBUTES))
    return (
        packed,
        Thoughts(columns[:, 0], columns[:, 1], columns[:, 2:]),
        Search(picture, where, wanted, chained.bool(), counted),
    )
