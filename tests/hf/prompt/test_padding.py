"""Padding is told from the caller's own masks, whatever their form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from sparsesight import Method, sparsify
from sparsesight.hf.prompt.inputs import valid_rows
from tests.hf.test_invariants import ALL, batch, label, model
from tests.in_turn import in_turn

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
    "see each other",
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
    if rows == "see each other":
        return mask | (padding & ~real[:, None])
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


# As the last of several documents, a single row at the end that sees all before it, or all there is, is real.
ONE_ROW_IS_TEXT = {"see themselves and the real ones", "were opened"}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_rows_of_padding_see(side: str, rows: str) -> None:
    real = REAL if side == "right" else REAL.flip(1)
    if side == "right" and rows in ONE_ROW_IS_TEXT:
        real = real[[0, 2]]
    assert torch.equal(valid_rows(formed(seen(real, rows), "boolean"), IDS[: len(real)]), real)


@pytest.mark.parametrize("rows", ROWS)
def test_padding_on_both_sides(rows: str) -> None:
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0, 0]]).bool()
    if rows == "see each other":  # those of both sides do, which is a document in two parts
        real = real[2:]
    if rows == "see themselves and the real ones":
        real = real[[0, 2]]
    assert torch.equal(valid_rows(formed(seen(real, rows), "boolean"), IDS[: len(real)]), real)


def test_other_rules() -> None:
    """Documents in a row, and prompts that see themselves in both directions, are all real; one row for all samples."""
    document = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    packed = (document[:, None] == document).tril()
    both = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    prefix = both.tril() | (torch.arange(LENGTH) < 5)
    for mask in (packed, both, prefix, both.tril()):
        assert valid_rows(mask[None, None], IDS).all()
    picture = torch.zeros_like(IDS, dtype=torch.bool)
    picture[:, 4:] = True  # ends the prompt, and sees itself in both directions, or the whole prompt does
    both_pictures = (picture[0] & picture[0][:, None]) | both.tril()
    for mask in (both_pictures, both, packed | (packed.T & picture[0])):
        assert valid_rows(mask[None, None], IDS, picture).all()
    padded = (both & REAL[:1]) & REAL[0][:, None]
    assert torch.equal(valid_rows(padded[None, None], IDS[:1]), REAL[:1])


FORM_OF = {
    "eager": ("minimum", "-inf"),
    "sdpa": ("boolean", "heads", "minimum"),
    "flex_attention": ("block",),
}
TAKEN = [(attention, form) for attention, forms in FORM_OF.items() for form in forms]


@pytest.mark.parametrize(("taken", "rows", "method"), in_turn(TAKEN, ROWS, ALL, slow_once=True), ids=label)
def test_a_batch_padded_on_the_right_under_a_mask_of_ones_own(
    taken: tuple[str, str], rows: str, method: Method
) -> None:
    """Kept tokens, raters, counts and logits of each sample are those that it has alone."""
    attention, form = taken
    if form == "-inf" and rows == "see nothing":
        pytest.skip("a softmax over nothing is not a number, without SparseSight too")
    built, which = model("llava", attention), (0, 3)
    alone = [batch("llava", (i,)) for i in which]
    size = max(x["input_ids"].shape[1] for x in alone)
    ids = torch.stack(
        [torch.nn.functional.pad(x["input_ids"][0], (0, size - x["input_ids"].shape[1])) for x in alone]
    )
    real = torch.stack([torch.arange(size) < x["input_ids"].shape[1] for x in alone])
    with sparsify(built, method) as run, torch.no_grad():
        out = built(
            input_ids=ids,
            attention_mask=formed(seen(real, rows), form),
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
