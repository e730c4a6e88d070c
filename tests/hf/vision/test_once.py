"""Equal tiles, pictures and frames are encoded once; the matrix tries it with every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsesight import SparseSightError, UnsupportedModelError, sparsify
from sparsesight.hf.vision.once import Repeats, grid_repeats, tile_repeats
from sparsesight.hf.vision.row_hash import first_equal

from ..families import ALL
from ..families.base import SAMPLES

FAMILIES = {family.name: family for family in ALL}


def prompt_of(name: str, *which: int) -> tuple[Any, dict[str, Any]]:
    family = FAMILIES[name]
    return family.build("sdpa"), family.prompts([SAMPLES[i] for i in which])


def test_the_first_equal_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(6, 2, 3)
    x[3], x[4], x[5] = x[0], x[1], x[0]
    assert first_equal(x).tolist() == [0, 1, 2, 0, 1, 0]
    masks = torch.tensor([1, 1, 1, 1, 0, 1])[:, None] > 0
    assert first_equal(x, masks).tolist() == [0, 1, 2, 0, 4, 0], "all that belongs to an entry counts"
    assert first_equal(torch.tensor([[0.0], [-0.0]])).tolist() == [0, 1], "bits count"
    monkeypatch.setattr(
        "sparsesight.hf.vision.row_hash.row_hashes", lambda x: torch.zeros(len(x), dtype=torch.long)
    )
    assert first_equal(x[:2]).tolist() == [0, 1], "equal numbers alone do not make entries equal"


def test_tiles() -> None:
    pixels, masks = torch.randn(4, 3, 8, 8), torch.ones(4, 2)
    pixels[2], pixels[3] = pixels[0], pixels[1]
    masks[3] = 0
    found = tile_repeats([pixels, masks])
    assert found is not None
    repeats, (fewer, fewer_masks) = found
    assert repeats.of == [0, 1, 0, 2] and torch.equal(fewer, pixels[[0, 1, 3]])
    assert torch.equal(fewer_masks, masks[[0, 1, 3]])
    rows = torch.arange(6)[:, None]  # two of each tile
    assert repeats.output((rows, None))[0].flatten().tolist() == [0, 1, 2, 3, 0, 1, 4, 5]
    assert tile_repeats([torch.zeros(4, 9, 3)]) is None and tile_repeats([torch.zeros(4, 5, 8, 8)]) is None
    assert tile_repeats([pixels, masks[:2]]) is None


@pytest.mark.parametrize(("alone", "of"), [("frames", [0, 0, 1, 2, 1]), ("pictures", [0, 1, 2])])
def test_grids(alone: Any, of: list[int]) -> None:
    """Two equal frames in the first clip; the last picture equals its last frame; one is of another shape."""
    frame, other = torch.randn(4, 5), torch.randn(4, 5)
    patches = torch.cat((frame, frame, other, other, other))
    grids = torch.tensor([[3, 2, 2], [1, 1, 4], [1, 2, 2]])
    found = grid_repeats([patches, grids], alone)
    assert found is not None
    repeats, (fewer, fewer_grids) = found
    assert repeats.of == of
    assert len(fewer) == fewer_grids.prod(1).sum() == sum(repeats.sizes)
    if alone == "frames":
        assert fewer_grids.tolist() == [[1, 2, 2], [1, 2, 2], [1, 1, 4]]
        assert torch.equal(repeats.output(fewer), patches)
    assert grid_repeats([patches], alone) is None and grid_repeats([patches[1:], grids], alone) is None


def test_rows_that_belong_to_nobody_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="encode_once=True: the vision tower makes 5 rows of 4"):
        Repeats([2, 2], [0, 1, 0]).output(torch.zeros(5, 1))


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl"])
def test_methods_that_read_the_tower_keep_the_same(name: str) -> None:
    """A picture that two samples ask about is encoded once, and both have its attention."""
    model, prompt = prompt_of(name, 1, 1)
    kept: list[list[list[Tensor]]] = []
    for once in (False, True):
        with sparsify(model, "vispruner", retain=0.4, encode_once=once) as run, torch.no_grad():
            model.generate(**prompt, max_new_tokens=1, do_sample=False)
            kept.append(run.kept)
    assert run.encoded is not None and run.encoded.encoded * 2 == run.encoded.given
    assert all(torch.equal(a, b) for x, y in zip(*kept, strict=True) for a, b in zip(x, y, strict=True))


def hooks(model: Any) -> list[Any]:
    return [
        hook for x in model.modules() for hook in (*x._forward_hooks.values(), *x._forward_pre_hooks.values())
    ]


def test_what_is_not_equal_is_left_alone() -> None:
    """Bit for bit the dense model, and nothing is left on it; in training, dropout makes equal pictures unequal."""
    model, prompt = prompt_of("llava", 0)
    with torch.no_grad():
        dense, before = model(**prompt).logits, hooks(model)
        with sparsify(model, retain=1.0, encode_once=True) as run:
            assert torch.equal(model(**prompt).logits, dense)
            assert run.encoded is not None and run.encoded.given == run.encoded.encoded == 1
            model.train()(**prompt)
            assert run.encoded.given == 1
            model.eval()
        with sparsify(model, retain=1.0) as plain:
            assert plain.encoded is None
    assert hooks(model) == before


def test_a_value_that_is_no_switch() -> None:
    model, _ = prompt_of("llava", 0)
    with pytest.raises(SparseSightError, match="encode_once=1: use True or False"):
        sparsify(model, encode_once=1)  # type: ignore[arg-type]
