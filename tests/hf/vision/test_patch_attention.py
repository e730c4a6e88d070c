"""The attention that patches receive, against whole attention matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsesight.hf.vision.reader import patch_attention

from .test_reader import built, reading

# -- the attention itself -----------------------------------------------------------------------------------------


def dense(query: Tensor, key: Tensor, seen: Tensor, class_token: bool) -> Tensor:
    """The same from the whole matrix; ``seen`` [b, n, n]."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = (query @ key.transpose(2, 3) * 0.3).masked_fill(~seen[:, None], float("-inf"))
    weight = logits.softmax(-1).nan_to_num(0).mean(1)
    if class_token:
        weight[:, 0, 0] = float("-inf")
        return weight[:, 0]
    asks = seen & seen.diagonal(dim1=1, dim2=2)[..., None]  # padding asks nothing
    return (weight * asks).sum(1) / asks.sum(1).clamp(min=1)


Mask = Callable[[Tensor], Any]


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("logits", [1, 700, 1 << 22])
@pytest.mark.parametrize(
    "form",
    [
        lambda seen: seen[:, None],
        lambda seen: torch.where(seen[:, None], 0.0, torch.finfo(torch.float32).min),
        lambda seen: torch.where(seen[:, None], 0.0, torch.finfo(torch.bfloat16).min).bfloat16(),
        lambda seen: torch.where(seen[:, None], 0.0, torch.finfo(torch.float16).min).half(),
        lambda seen: torch.where(seen[:, None], 0.0, float("-inf")).expand(-1, 4, -1, -1),
    ],
)
def test_what_may_not_be_seen_gives_and_gets_nothing(
    form: Mask, logits: int, class_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsesight.hf.vision.reader._LOGITS", logits)
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    seen = torch.ones(2, 9, 9, dtype=torch.bool)
    seen[0, :, 7:] = False  # padding
    seen[1, :4, 4:] = seen[1, 4:, :4] = False  # two pictures in one sequence
    got = patch_attention(query, key, form(seen), 0.3, class_token)
    torch.testing.assert_close(got, dense(query, key, seen, class_token))
    assert not got[0, 7:].any()


@pytest.mark.parametrize("class_token", [True, False])
def test_other_forms_of_masks(class_token: bool) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8)
    every = torch.ones(2, 9, 9, dtype=torch.bool)
    wanted = dense(query, key, every, class_token)
    torch.testing.assert_close(patch_attention(query, key, None, 0.3, class_token), wanted)
    padding = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])  # FlashAttention's
    got = patch_attention(query, key, padding, 0.3, class_token)
    torch.testing.assert_close(got, dense(query, key, padding.bool()[:, None].expand(-1, 9, -1), class_token))


def test_flash_attention_has_all_pictures_in_one_sequence() -> None:
    model = built("qwen2_vl", "sdpa")
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 12, 16), torch.randn(1, 2, 12, 16)
    with reading(model) as (reader, _):
        reader.local.running = reader.sight.towers[0]
        reader._observe(0, query, key, None, {"cu_seq_lens_q": torch.tensor([0, 8, 12]), "scaling": 0.3})
        (first, _), (second, keys) = reader.local.read
        reader.forget()
    torch.testing.assert_close(first, patch_attention(query[:, :, :8], key[:, :, :8], None, 0.3, False)[0])
    torch.testing.assert_close(second, patch_attention(query[:, :, 8:], key[:, :, 8:], None, 0.3, False)[0])
    torch.testing.assert_close(keys, key[0, :, 8:].mean(0))
