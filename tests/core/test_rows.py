"""Rows after a selection: text stays, order and places hold, merged tokens go where they should."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsesight import Method, SparseVLM, ops
from sparsesight.core.rows import Rows, advance
from sparsesight.core.stage import Selection, StageInput

from ..methods.stages import NUM_LAYERS, Sample, build

SIZES = [(3, 40, 9), (5, 25, 4), (0, 61, 1), (4, 7, 0), (2, 0, 6)]


def samples(sizes: list[tuple[int, int, int]] = SIZES) -> list[Sample]:
    return [Sample.random(20 + i, *s) for i, s in enumerate(sizes)]


def run(
    method: Method, batch: list[Sample], move: bool = False, poison: float = math.nan
) -> tuple[Rows, StageInput, Selection, Rows, Tensor]:
    rows, stage = build(method, batch, poison=poison)
    selection = method.select(stage)
    out = selection.counts.tokens_out
    width = max(s.length - s.visual + o for s, o in zip(batch, out, strict=True))
    after, hidden = advance(rows, [(stage, selection)], width, move)
    return rows, stage, selection, after, hidden


def as_lists(rows: Rows, i: int) -> dict[str, list[Any]]:
    """The valid rows of one sample."""
    columns = {f.name: getattr(rows, f.name) for f in dataclasses.fields(rows)}
    return {name: x[i][rows.valid[i]].tolist() for name, x in columns.items() if x is not None}


# -- start -------------------------------------------------------------------------------------------------------


def test_start() -> None:
    valid = torch.tensor([[False, True, True, True, True, True, True, True]] * 2)
    visual = torch.tensor([[False, False, True, True, False, True, False, False], [False] * 8])
    rows = Rows.start(valid, visual)
    assert rows.text.tolist() == [
        [False] * 6 + [True] * 2,
        [False] * 8,
    ]  # only what follows the last picture judges
    assert rows.origin.tolist() == [[-1, -1, 0, 1, -1, 2, -1, -1], [-1] * 8]
    assert rows.source.tolist() == rows.slot.tolist() == [list(range(8))] * 2
    assert torch.equal(rows.valid, valid) and torch.equal(rows.visual, visual) and not rows.rater.any()


# -- without merging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("poison", [math.nan, 1e30])
def test_kept_rows_go_on_as_they_are(poison: float, move: bool) -> None:
    batch = samples()
    method = SparseVLM((20, 10, 5), recycle=0.0)
    before, _, selection, after, hidden = run(method, batch, move, poison)
    for i, sample in enumerate(batch):
        pad = before.valid.shape[1] - sample.length
        keep = selection.keep[i][selection.keep.shape[1] - sample.visual :]
        stays = torch.ones(sample.length, dtype=torch.bool)
        stays[sample.at_visual] = keep
        got, source = as_lists(after, i), stays.nonzero()[:, 0]
        assert got["source"] == got["slot"] == (source + pad).tolist()
        assert got["visual"] == [sample.before <= x < sample.before + sample.visual for x in source]
        assert got["text"] == [
            sample.visual > 0 and x >= sample.before + sample.visual for x in source.tolist()
        ]
        origin = (source - sample.before).tolist()
        assert got["origin"] == [x if v else -1 for x, v in zip(origin, got["visual"], strict=True)]
        assert sum(got["text"]) == (sample.after if sample.visual else 0)
        assert sum(got["rater"]) == (int(sample.rater.sum()) if sample.visual else 0)
        torch.testing.assert_close(hidden[i][after.valid[i]], sample.hidden[stays], rtol=0, atol=0)
        valid = after.valid[i].tolist()
        assert valid == sorted(valid)  # filler on the left: the last row stays the last token
    filler = ~after.valid
    for flag in (after.visual, after.text, after.rater):
        assert not (flag & filler).any()
    assert ((after.source >= 0) & (after.source < before.valid.shape[1])).all()


# -- with merging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [math.nan, 1e30])
@pytest.mark.parametrize("move", [False, True])
def test_merged_tokens(poison: float, move: bool) -> None:
    """Original order: at the row of the cluster centre. Compact: behind the kept tokens, in cluster order."""
    batch = samples()
    method = SparseVLM((12, 6, 3))
    before, _, selection, after, hidden = run(method, batch, move, poison)
    merge, recycled = selection.merge, selection.recycled
    assert merge is not None and recycled is not None
    assert selection.counts.merged == (1, 1, 2, 0, 0)
    for i, sample in enumerate(batch):
        pad, q = before.valid.shape[1] - sample.length, selection.counts.merged[i]
        keep = selection.keep[i][selection.keep.shape[1] - sample.visual :].nonzero()[:, 0].tolist()
        first = selection.keep.shape[1] - sample.visual
        centres = [int(recycled[i, c]) - first for c in merge.centre[i, :q]]
        assert not set(centres) & set(keep)
        visual = [*keep, *centres] if move else sorted([*keep, *centres])
        expected = [*range(sample.before), *(sample.before + x for x in visual)]
        expected += range(sample.before + sample.visual, sample.length)
        got = as_lists(after, i)
        assert got["source"] == [pad + x for x in expected]
        assert got["slot"] == sorted(got["source"])  # masks read slots: the order of the rows is causal
        is_merged = [x - sample.before in centres for x in expected]
        assert got["visual"] == [sample.before <= x < sample.before + sample.visual for x in expected]
        plain = [v and not m for v, m in zip(got["visual"], is_merged, strict=True)]
        origin = [x - sample.before if p else -1 for x, p in zip(expected, plain, strict=True)]
        assert got["origin"] == origin
        assert sum(got["text"]) == (sample.after if sample.visual else 0)
        for row, x, m in zip(hidden[i][after.valid[i]], expected, is_merged, strict=True):
            wanted = merge.tokens[i, centres.index(x - sample.before)] if m else sample.hidden[x]
            torch.testing.assert_close(row, wanted, rtol=0, atol=0)


def test_hidden_states_keep_their_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        method, batch = SparseVLM((12, 6, 3)), samples()[:3]
        rows, stage = build(method, batch)
        stage = dataclasses.replace(stage, hidden=stage.hidden.to(dtype))
        selection = method.select(stage)
        width = max(s.length - s.visual + o for s, o in zip(batch, selection.counts.tokens_out, strict=True))
        _, hidden = advance(rows, [(stage, selection)], width, False)
        assert hidden.dtype == dtype


def test_gradients_reach_what_was_merged() -> None:
    method, batch = SparseVLM((12, 6, 3)), samples()[:1]
    rows, stage = build(method, batch)
    stage = dataclasses.replace(stage, hidden=stage.hidden.clone().requires_grad_())
    selection = method.select(stage)
    (out,) = selection.counts.tokens_out
    _, hidden = advance(rows, [(stage, selection)], batch[0].length - 40 + out, False)
    hidden.sum().backward()
    gradient = stage.hidden.grad
    assert gradient is not None and selection.recycled is not None
    kept = selection.keep[0].nonzero()[:, 0]
    assert (gradient[0, 3 + kept] == 1).all()
    assert (gradient[0, 3 + selection.recycled[0]] > 0).all()
    lost = sorted(set(range(40)) - set(kept.tolist()) - set(selection.recycled[0].tolist()))
    assert lost and not gradient[0, [3 + x for x in lost]].any()


# -- stage after stage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recycle", [0.0, 0.3])
@pytest.mark.parametrize("move", [False, True])
def test_three_stages(move: bool, recycle: float) -> None:
    """Counts follow the schedule; no text is lost; places stay in order; what was merged can be dropped again."""
    method = SparseVLM((30, 12, 4), recycle=recycle)
    batch = samples([(3, 60, 9), (5, 45, 4), (0, 21, 2)])
    layers = method.stage_layers(NUM_LAYERS)
    plans = [method.plan(s.visual, NUM_LAYERS, layers) for s in batch]
    rows, stage = build(method, batch)
    width = rows.valid.shape[1]
    for i in range(3):
        selection = method.select(stage)
        out = selection.counts.tokens_out
        assert out == tuple(p.stages[i].tokens_out for p in plans)
        lengths = [s.length - s.visual + o for s, o in zip(batch, out, strict=True)]
        before = rows
        rows, hidden = advance(before, [(stage, selection)], max(lengths), move)
        assert rows.valid.sum(1).tolist() == lengths and rows.visual.sum(1).tolist() == list(out)
        assert hidden[rows.valid].isfinite().all()
        for b, sample in enumerate(batch):
            got = as_lists(rows, b)
            text = [s for s, t in zip(got["source"], got["text"], strict=True) if t]
            assert text == list(range(width - sample.after, width))
            assert sum(got["rater"]) == int(sample.rater.sum())
            assert all(x < y for x, y in itertools.pairwise(got["slot"]))
            assert len(set(got["source"])) == len(got["source"])
            assert got["source"] == got["slot"] or (move and recycle)
            origin = [x for x in got["origin"] if x >= 0]
            assert origin == sorted(set(origin))
            assert recycle or len(origin) == out[b]
        if i < 2:
            stage = following(method, batch, i + 1, before, rows, stage, hidden)


def following(
    method: Method,
    batch: list[Sample],
    index: int,
    before: Rows,
    rows: Rows,
    stage: StageInput,
    hidden: Tensor,
) -> StageInput:
    """The next stage's input: the rows that are left, with the queries and keys they had."""
    column, visual = ops.compact(rows.visual, int(rows.visual.sum(1).max()))
    row, is_text = ops.compact(rows.text, max(s.after for s in batch))
    same = rows.source[:, :, None] == before.source[:, None].masked_fill(~before.valid[:, None], -1)
    key = ops.gather_rows(stage.attention.key.transpose(1, 2), same.int().argmax(2)).transpose(1, 2)
    made = build(method, batch, index=index)[1]
    return dataclasses.replace(
        made,
        visual=visual,
        origin=rows.origin.gather(1, column),
        hidden=hidden,
        column=column,
        rater=rows.rater.gather(1, row) & is_text,
        text=is_text,
        text_column=row,
        at=dataclasses.replace(
            made.attention,
            key=key,
            mask=ops.causal_rows(row, key.shape[2], 0, rows.valid),
            key_column=column,
            query_position=rows.source.gather(1, row),
            key_position=rows.source,
        ),
    )
