"""Padding is told from the caller's own masks, whatever their form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from sparsesight import sparsify
from sparsesight.hf.prompt.inputs import valid_rows
from tests.hf.test_invariants import batch, model

LENGTH = 8
REAL = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0], [1] * LENGTH]).bool()
IDS = torch.zeros(3, LENGTH, dtype=torch.long)
FORMS = ("boolean", "heads", "-inf", "minimum", "-10000", "float16", "mapping", "block")
ROWS = (
    "see the real ones",
    "see themselves",
    "see themselves and the real ones",
    "see nothing",
    "were opened",
)


def seen(real: torch.Tensor, rows: str = "see the real ones") -> torch.Tensor:
    """A causal mask [b, n, n] in which rows of padding do as said."""
    n = real.shape[1]
    mask, eye = torch.ones(n, n, dtype=torch.bool).tril() & real[:, None], torch.eye(n, dtype=torch.bool)
    padding = ~real[:, :, None]
    if rows == "see themselves and the real ones":
        return mask | (eye & padding)
    if rows == "see the real ones":
        return mask
    mask = mask & ~padding
    if rows == "see themselves":
        return mask | (eye & padding)
    return mask | padding if rows == "were opened" else mask


def formed(mask: torch.Tensor, form: str, past: int = 0) -> Any:
    if past:
        mask = torch.cat((torch.ones(*mask.shape[:2], past, dtype=torch.bool), mask), 2)
    if form == "block":
        return create_block_mask(
            lambda b, h, q, k: mask[b, q, k], B=len(mask), H=None, Q_LEN=mask.shape[1], KV_LEN=mask.shape[2],
            device="cpu",
        )  # fmt: skip
    if form == "boolean":
        return mask[:, None]
    if form == "heads":
        return mask[:, None].expand(-1, 4, -1, -1)
    if form == "mapping":
        window = torch.ones(mask.shape[1:], dtype=torch.bool).triu(past - 2)
        return {"sliding_attention": (mask & window)[:, None], "full_attention": mask[:, None], "none": None}
    low = {"-inf": -torch.inf, "-10000": -1e4, "float16": -65504.0}.get(form, torch.finfo(torch.float32).min)
    dtype = torch.float16 if form == "float16" else torch.float32
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, low)[:, None]


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, past: int) -> None:
    assert torch.equal(valid_rows(formed(seen(REAL), form, past), IDS), REAL)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_rows_of_padding_see(side: str, rows: str) -> None:
    real = REAL if side == "right" else REAL.flip(1)
    if rows == "were opened" and side == "right":
        pytest.skip("those rows are not empty: nobody opens them")
    if rows == "see themselves and the real ones" and side == "right":
        real = real[[0, 2]]  # a single one at the end is what a prompt's last token is
    assert torch.equal(valid_rows(formed(seen(real, rows), "boolean"), IDS[: len(real)]), real)


def test_other_rules() -> None:
    """Documents in a row, and prompts that see themselves in both directions, are all real; one row for all samples."""
    document = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    packed = (document[:, None] == document).tril()
    both = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    prefix = both.tril() | (torch.arange(LENGTH) < 5)
    for mask in (packed, both, prefix):
        assert valid_rows(mask[None, None], IDS).all()
    padded = (both & REAL[:1]) & REAL[0][:, None]
    assert torch.equal(valid_rows(padded[None, None], IDS[:1]), REAL[:1])


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_a_batch_padded_on_the_right_under_a_mask_of_ones_own(attention: str) -> None:
    """Kept tokens, raters, counts and logits of each sample are those that it has alone."""
    built, which = model("llava", attention), (0, 3)
    alone = [batch("llava", (i,)) for i in which]
    size = max(x["input_ids"].shape[1] for x in alone)
    ids = torch.stack(
        [torch.nn.functional.pad(x["input_ids"][0], (0, size - x["input_ids"].shape[1])) for x in alone]
    )
    real = torch.stack([torch.arange(size) < x["input_ids"].shape[1] for x in alone])
    form = {"eager": "minimum", "sdpa": "boolean", "flex_attention": "block"}[attention]
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        out = built(
            input_ids=ids,
            attention_mask=formed(seen(real, "see themselves"), form),
            pixel_values=torch.cat([x["pixel_values"] for x in alone]),
        )
        kept, report, raters = run.kept, run.report, [run.raters(i) for i in range(2)]
        for i, prompt in enumerate(alone):
            own = built(**prompt)
            n = prompt["input_ids"].shape[1]
            torch.testing.assert_close(out.logits[i, :n], own.logits[0], atol=3e-4, rtol=1e-4)
            assert all(torch.equal(a[i], b[0]) for a, b in zip(kept, run.kept, strict=True))
            assert torch.equal(raters[i][:n], run.raters(0)) and not raters[i][n:].any()
            assert report.samples[i].text_tokens == run.report.samples[0].text_tokens
