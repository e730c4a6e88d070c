"""The record of a stage: of tokens that are merged, and merged again."""

from __future__ import annotations

import torch

from sparsesight import ops
from sparsesight.core.record import StageTensors
from sparsesight.core.stage import Counts, Selection, StageInput
from sparsesight.core.step import Chosen

TOKENS, OFFSET = 6, 3  # visual tokens, rows of the input before them


def chosen(token: list[int], merged: list[int], kept: list[int], clusters: dict[int, list[int]]) -> Chosen:
    """A stage that sees these tokens behind one column of padding; ``clusters`` by their centre."""
    number = torch.tensor([[0, *token]])
    none = torch.zeros(1, 0, dtype=torch.bool)
    seen = StageInput(
        index=0,
        layer=0,
        planned=None,
        visual=torch.tensor([[False] + [True] * len(token)]),
        prunable=torch.ones(1, dtype=torch.bool),
        origin=torch.tensor([[-1] + [-1 if t in merged else t for t in token]]),
        hidden=torch.zeros(1, OFFSET + TOKENS, 2),
        column=number + OFFSET,
        text=none,
        text_column=none.long(),
        rater=none,
        at=None,
    )
    column = {t: i + 1 for i, t in enumerate(token)}
    gone = [t for parts in clusters.values() for t in parts]
    keep = torch.tensor([[False] + [t in kept for t in token]])
    count = torch.tensor([len(kept)]), torch.tensor([len(gone)]), (len(gone),), (len(clusters),), (0,)
    recycled = merge = None
    if gone:
        recycled = torch.tensor([[column[t] for t in gone] + [0]])  # one of filler
        assign = [i for i, parts in enumerate(clusters.values()) for _ in parts]
        centre = torch.tensor([[gone.index(c) for c in clusters]])
        empty = torch.zeros(1, len(clusters), 2)
        merge = ops.Merge(empty, centre, torch.tensor([[*assign, 0]]), empty[..., 0] == 0)
    score = torch.tensor([[9.0, *(float(t) for t in token)]])
    return Chosen(seen, Selection(keep, score, Counts(*count), recycled, merge), number + OFFSET)


def test_a_merged_token_that_is_merged_again_takes_its_tokens_along() -> None:
    token = torch.arange(-OFFSET, TOKENS)[None].clamp(min=-1)
    stages = [
        chosen([0, 1, 2, 3, 4, 5], [], [0, 1], {3: [2, 3], 5: [4, 5]}),
        chosen([0, 1, 3, 5], [3, 5], [0, 5], {1: [3, 1]}),
        chosen([0, 1, 5], [1, 5], [0, 5], {}),
    ]
    before, records = None, []
    for layer, stage in enumerate(stages):
        before = StageTensors.of(layer, [stage], token, TOKENS, before)
        records += before.samples([TOKENS])
    one, two, three = records
    assert one.into.tolist() == [-1, -1, 3, 3, 5, 5] and one.kept.tolist() == [1, 1, 0, 0, 0, 0]
    assert two.into.tolist() == [-1, 1, 1, 1, 5, 5] and two.kept.tolist() == [1, 0, 0, 0, 0, 0]
    assert three.into.tolist() == [-1, -1, -1, -1, 5, 5] and three.kept.tolist() == [1, 0, 0, 0, 0, 0]
    assert two.centre.tolist() == [0, 1, 0, 0, 0, 1]
    assert (two.counts(), two.counts(short=True), two.where) == (
        "1 + 2 merged of 6",
        "1+2 of 6",
        "after layer 1",
    )
    assert torch.from_numpy(two.score).nan_to_num(-1).tolist() == [0, 1, -1, 3, -1, 5]
