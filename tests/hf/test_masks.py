"""Masks of pruned layers against a plain definition, in every form an attention implementation takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from sparsesight.hf.masks import mask_of_rows, select_mask

PAST, LENGTH = 3, 9
ROW = torch.tensor([[0, 2, 5, 6, 8], [1, 3, 4, 7, 8]])  # rows left of each sample
SLOT = torch.cat((torch.tensor([[0, 1, 2], [0, 1, 2]]), ROW + PAST), 1)
VALID = torch.ones_like(SLOT, dtype=torch.bool)
VALID[0, 3] = False  # one filler row
PADDING = torch.ones(2, PAST + LENGTH, dtype=torch.bool)
PADDING[1, :4] = False


def full() -> torch.Tensor:
    """The unpruned rule [b, rows, keys]: causal, without padding."""
    row, key = torch.arange(LENGTH)[:, None] + PAST, torch.arange(PAST + LENGTH)
    return (key <= row)[None] & PADDING[:, None]


def expected() -> torch.Tensor:
    out = torch.zeros(2, ROW.shape[1], SLOT.shape[1], dtype=torch.bool)
    for b in range(2):
        for i, row in enumerate(ROW[b]):
            for j, slot in enumerate(SLOT[b]):
                out[b, i, j] = full()[b, row, slot] & VALID[b, j]
    return out


def block_mask() -> Any:
    rule = full()
    return create_block_mask(
        lambda b, h, q, k: rule[b, q, k], B=2, H=None, Q_LEN=LENGTH, KV_LEN=PAST + LENGTH, device="cpu"
    )


def select(mask: Any, **how: Any) -> Any:
    settings = {"ragged": True, "past": PAST, "total": PAST + LENGTH, "flash": False, **how}
    return select_mask(mask, ROW, SLOT, VALID, **settings)


def test_boolean_and_additive() -> None:
    assert torch.equal(select(full()[:, None])[:, 0], expected())
    low = torch.finfo(torch.float32).min
    additive = torch.where(full(), 0.0, low)[:, None]
    assert torch.equal(select(additive)[:, 0] == 0, expected())


def test_block_mask() -> None:
    made = select(block_mask())
    b, q, k = torch.meshgrid(torch.arange(2), torch.arange(5), torch.arange(8), indexing="ij")
    assert made.shape == (2, 1, 5, 8) and torch.equal(made.mask_mod(b, torch.tensor(0), q, k), expected())


def test_flash_attention_takes_columns_only() -> None:
    columns = select(PADDING, flash=True)
    assert torch.equal(columns, PADDING.gather(1, SLOT) & VALID)
    assert torch.equal(select(None, flash=True), VALID)
    assert select(PADDING, flash=True, ragged=False, past=0) is None  # only real tokens are left


def test_no_mask_stays_none_unless_ragged() -> None:
    assert select(None, ragged=False) is None
    causal = (SLOT[:, None] <= ROW[..., None] + PAST) & VALID[:, None]
    assert torch.equal(select(None)[:, 0], causal)


@pytest.mark.parametrize("form", ["boolean", "additive", "block"])
def test_a_windowed_mask_lacks_columns_before_the_window(form: str) -> None:
    """Keys whose columns it lacks are hidden; the others are found by their logical index."""
    gone = 4
    mask: Any = full()[:, None, :, gone:]
    if form == "additive":
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    elif form == "block":
        rule = full()
        mask = create_block_mask(
            lambda b, h, q, k: rule[b, q, k + gone],
            B=2,
            H=None,
            Q_LEN=LENGTH,
            KV_LEN=PAST + LENGTH - gone,
            device="cpu",
        )
    got = select(mask)
    if form == "block":
        b, q, k = torch.meshgrid(torch.arange(2), torch.arange(5), torch.arange(8), indexing="ij")
        seen = got.mask_mod(b, torch.tensor(0), q, k)
    else:
        seen = got[:, 0] if form == "boolean" else got[:, 0] == 0
    assert torch.equal(seen, expected() & (gone <= SLOT)[:, None])


@pytest.mark.parametrize("form", ["boolean", "additive", "block", "flash", "none"])
def test_rows_of_a_pruning_layer(form: str) -> None:
    keys = PAST + LENGTH
    causal = torch.arange(keys) <= (ROW + PAST)[..., None]
    wanted = {"flash": causal & PADDING[:, None], "none": causal}.get(
        form, full().gather(1, ROW[..., None].expand(-1, -1, keys))
    )
    mask = {
        "boolean": full()[:, None],
        "additive": torch.where(full(), 0.0, -1e9)[:, None],
        "block": block_mask(),
        "flash": PADDING,
        "none": None,
    }[form]
    got = mask_of_rows(mask, ROW, PAST, keys)[:, 0]
    assert torch.equal(got == 0 if form == "additive" else got, wanted)
