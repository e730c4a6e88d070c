"""Finding rows by their bits, and asking modules which rows they merge, against references that try every row."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AyaVisionConfig, Gemma3Config, Idefics3Config, SiglipVisionConfig
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector
from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.mistral3.modeling_mistral3 import Mistral3PatchMerger
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger

from sparsesight.hf.vision.row_hash import find_rows, merged_rows, row_hashes, signature

WIDTH = 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equal_rows_have_equal_numbers_and_one_bit_makes_another(dtype: torch.dtype) -> None:
    x = torch.randn(4000, 24, dtype=torch.float32).to(dtype)
    number = row_hashes(x)
    assert len(number.unique()) == len(x.unique(dim=0))
    assert torch.equal(row_hashes(x.flip(0)).flip(0), number)
    assert torch.equal(row_hashes(x.t().contiguous().t()), number), "layout is no content"
    words = x.clone().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
    words[:, 7] ^= 1
    assert (row_hashes(words.view(dtype)) != number).all()


def test_long_tensors_are_summed_in_parts() -> None:
    x = torch.randn(3000, 1024)
    assert torch.equal(row_hashes(x)[2500:], row_hashes(x[2500:]))
    assert row_hashes(x[:0]).shape == (0,)


def test_rows_are_found_and_equal_ones_paired_in_their_order() -> None:
    known, wanted = torch.tensor([5, 9, 5, -3]), torch.tensor([9, 5, 4, 5, 5, -3, 2**62])
    assert find_rows(known, wanted).tolist() == [1, 0, -1, 2, 2, 3, -1]
    assert find_rows(known[:0], wanted).tolist() == [-1] * 7
    assert find_rows(known, wanted[:0]).tolist() == []


def tried(run: Callable[[Tensor], Tensor], x: Tensor) -> list[list[int]]:
    """Which rows of ``x`` change each row of ``run(x)``, by changing one at a time."""
    before = run(x).flatten(0, -2)
    groups: list[list[int]] = [[] for _ in before]
    for i in range(x[..., 0].numel()):
        changed = x.clone()
        changed.view(-1, x.shape[-1])[i] += torch.linspace(0.5, 1.5, x.shape[-1])
        for out in (run(changed).flatten(0, -2) != before).any(1).nonzero()[:, 0].tolist():
            groups[out].append(i)
    return groups


def qwen() -> tuple[Any, tuple[int, ...], tuple[Any, ...]]:
    return PatchMerger(dim=24, context_dim=WIDTH), (24, WIDTH), ()


def gemma() -> tuple[Any, tuple[int, ...], tuple[Any, ...]]:
    vision = SiglipVisionConfig(hidden_size=WIDTH, image_size=48, patch_size=8, num_attention_heads=2)
    made = Gemma3MultiModalProjector(
        Gemma3Config(vision_config=vision.to_dict(), text_config={"hidden_size": 32}, mm_tokens_per_image=9)
    )
    nn.init.normal_(made.mm_input_projection_weight)
    return made, (1, 36, WIDTH), ()


def aya() -> tuple[Any, tuple[int, ...], tuple[Any, ...]]:
    vision = {"model_type": "siglip_vision_model", "hidden_size": WIDTH}
    text = {"model_type": "cohere2", "hidden_size": 32}
    config = AyaVisionConfig(vision_config=vision, text_config=text, downsample_factor=2)
    return AyaVisionMultiModalProjector(config), (1, 36, WIDTH), ()


def idefics() -> tuple[Any, tuple[int, ...], tuple[Any, ...]]:
    config = Idefics3Config(
        vision_config={"hidden_size": WIDTH}, text_config={"hidden_size": 32}, scale_factor=2
    )
    return Idefics3Connector(config), (2, 16, WIDTH), ()


def mistral() -> tuple[Any, tuple[int, ...], tuple[Any, ...]]:
    vision = SimpleNamespace(hidden_size=WIDTH, patch_size=1)
    made = Mistral3PatchMerger(SimpleNamespace(vision_config=vision, spatial_merge_size=2))  # type: ignore[arg-type]
    return made, (4 * 2 + 4 * 6, WIDTH), (torch.tensor([[4, 2], [4, 6]]),)


def plain() -> tuple[Any, tuple[int, ...], tuple[Any, ...]]:
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.LayerNorm(32)), (3, 7, WIDTH), ()


@pytest.mark.parametrize("make", [qwen, gemma, aya, idefics, mistral, plain])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_tells_what_is_merged(make: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, shape, more = make()
    x = torch.randn(shape)
    wanted = tried(lambda given: module(given, *more), x)
    assert len({len(g) for g in wanted}) == 1 and sorted(i for g in wanted for i in g) == list(
        range(x[..., 0].numel())
    )
    module = module.to(dtype).requires_grad_(dtype == torch.float32)
    with torch.inference_mode():
        found = merged_rows(lambda given: module(given, *more), x.to(dtype))
    assert found == wanted
    assert all(p.grad is None for p in module.parameters())


def test_rows_that_are_not_used_are_in_no_group() -> None:
    line = nn.Linear(WIDTH, 8)
    assert merged_rows(lambda x: line(x[:, 1:]), torch.randn(2, 4, WIDTH)) == [
        [i] for i in (1, 2, 3, 5, 6, 7)
    ]


def resampled(x: Tensor) -> Tensor:
    """As many rows as came, each of all of them: what a perceiver does."""
    queries = torch.randn(1, x.shape[1], x.shape[2], generator=torch.Generator().manual_seed(0))
    return nn.functional.scaled_dot_product_attention(queries, x, x)


@pytest.mark.parametrize(
    "run",
    [
        resampled,
        lambda x: x.softmax(1),  # over rows
        lambda x: x[:, :8] + 0.05 * x[:, 8:].roll(1, 1) + 0.05 * x[:, 8:],
        lambda x: torch.cat((x[:, :2].sum(1, keepdim=True), x[:, 2:]), 1),  # groups of two sizes
        lambda x: torch.ones(1, 4, 8),
        lambda x: x.round(),
    ],
)
def test_other_mixing_is_seen(run: Any) -> None:
    torch.manual_seed(0)
    assert merged_rows(run, torch.randn(1, 16, WIDTH)) is None


def test_arguments_with_the_same_arrangement_have_one_key() -> None:
    assert signature((torch.tensor([[1, 2]]), None, True)) == signature((torch.tensor([[1, 2]]), None, True))
    assert signature(torch.tensor([[1, 2]])) != signature(torch.tensor([[2, 1]]))
    assert signature(torch.ones(2)) == signature(torch.zeros(2)) != signature(torch.zeros(3))
    assert len({signature([object(), (1, "a")])}) == 1
