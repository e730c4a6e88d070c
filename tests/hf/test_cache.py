"""Pruned cache layers: logical lengths over physical ones, through every operation a cache knows."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sparsesight import UnsupportedModelError
from sparsesight.hf.cache import check_cache, held_keys, make_pruned
from sparsesight.hf.pruned_layer import PrunedLayer


def pruned(batch: int = 2, ragged: bool = False) -> PrunedLayer:
    """Ten logical tokens of which [0, 3, 4, 8, 9] are held, then two more appended; keys hold their logical index."""
    cache = DynamicCache()
    layer = make_pruned(cache, 0)
    slots = torch.tensor([[0, 3, 4, 8, 9]]).repeat(batch, 1)
    valid = torch.ones_like(slots, dtype=torch.bool)
    if ragged:
        valid[0, 0] = False
    layer.note(slots, valid, 10, ragged)
    layer.update(keys(slots), keys(slots))
    tail = torch.tensor([[10, 11]]).repeat(batch, 1)
    layer.update(keys(tail), keys(tail))
    return layer


def keys(slots: torch.Tensor) -> torch.Tensor:
    return slots[:, None, :, None].float().expand(-1, 2, -1, 4).contiguous()


def test_lengths() -> None:
    layer = pruned()
    assert layer.get_seq_length() == 12 and layer.physical_length() == 7
    assert layer.get_mask_sizes(3) == (15, 0)
    slots, valid = layer.key_slots(2, torch.device("cpu"))
    assert torch.equal(keys(slots), layer.keys) and bool(valid.all())
    assert held_keys(None, 2) == (0, 0)


@pytest.mark.parametrize(
    ("remove", "left"), [(0, 7), (1, 6), (2, 5), (3, 4), (4, 3), (7, 3), (8, 2), (12, 0)]
)
def test_crop_counts_logically(remove: int, left: int) -> None:
    layer = pruned()
    layer.crop(-remove)
    assert layer.physical_length() == left and layer.get_seq_length() == 12 - remove
    slots, _ = layer.key_slots(2, torch.device("cpu"))
    assert left == 0 or torch.equal(keys(slots), layer.keys)


def test_crop_of_a_ragged_batch_is_refused_where_samples_differ() -> None:
    layer = pruned(ragged=True)
    layer.crop(-2)  # the common tail is no problem
    assert layer.physical_length() == 5
    with pytest.raises(UnsupportedModelError, match="different tokens"):
        layer.crop(-1)
    assert layer.physical_length() == 5


def test_batch_operations_move_the_bookkeeping_along() -> None:
    layer = pruned(ragged=True)
    layer.reorder_cache(torch.tensor([1, 0]))
    assert layer.valid[:, 0].tolist() == [True, False]
    layer.batch_repeat_interleave(2)
    assert layer.valid[:, 0].tolist() == [True, True, False, False] and layer.slots.shape == (4, 5)
    layer.batch_select_indices(torch.tensor([3]))
    assert layer.valid.shape == (1, 5) and layer.keys.shape[0] == 1
    copied = copy.deepcopy(layer)
    layer.reset()
    assert layer.get_seq_length() == 0 and copied.get_seq_length() == 12


def test_what_keys_stand_for_goes_with_them() -> None:
    """Through updates, crops, operations on the batch and a drop; one for what was appended."""
    layer = pruned()
    assert layer.key_multiplicity() is None
    slots, valid = layer.key_slots(2, torch.device("cpu"))
    times = torch.tensor([[1.0, 4, 2, 1, 3, 1, 1], [1, 1, 5, 2, 1, 1, 1]])
    layer.note(slots, valid, 12, False, times)
    tail = torch.tensor([[12]]).repeat(2, 1)
    layer.update(keys(tail), keys(tail))
    assert torch.equal(layer.key_multiplicity(), torch.cat((times, torch.ones(2, 1)), 1))
    layer.reorder_cache(torch.tensor([1, 0]))
    layer.crop(-5)  # logical 12, 11, 10, 9 and 8 go
    assert layer.key_multiplicity().tolist() == [[1, 1, 5], [1, 4, 2]]
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 3]))
    # Of the last forward's two tokens, 3 and 4, one stays, and stands for the other now.
    stays, stand_for = torch.tensor([[True, False], [False, True]]), torch.tensor([[6.0, 1], [1, 6]])
    layer.logical = 5
    layer.drop(past=3, stays=stays, count=1, ragged=False, multiplicity=stand_for)
    assert layer.key_multiplicity().tolist() == [[1, 6], [1, 6]]
    layer.reset()
    assert layer.key_multiplicity() is None


def test_text_before_the_first_picture_was_kept_whole() -> None:
    cache = DynamicCache()
    before = torch.arange(4)[None]
    cache.update(keys(before), keys(before), 0)
    layer = make_pruned(cache, 0)
    assert layer.get_seq_length() == 4 and layer.key_slots(1, torch.device("cpu"))[0].tolist() == [
        [0, 1, 2, 3]
    ]
    assert make_pruned(cache, 0) is layer


def test_caches_that_cannot_be_pruned() -> None:
    check_cache(None, 0)
    check_cache(DynamicCache(), 1)
    with pytest.raises(UnsupportedModelError, match="transformers Cache"):
        check_cache(((torch.zeros(1),),), 0)


def filled(window: int | None, length: int) -> PrunedLayer:
    """A cache layer that has seen ``length`` tokens, of a single sample, the last six of them in the last forward."""
    layer = DynamicLayer() if window is None else DynamicSlidingWindowLayer(sliding_window=window)
    for begin, end in ((0, length - 6), (length - 6, length)):
        part = torch.arange(begin, end)[None]
        layer.update(keys(part), keys(part))
    return PrunedLayer.of(layer)


@pytest.mark.parametrize("window", [None, 5, 9, 40])
def test_drop(window: int | None) -> None:
    """Keys of the last forward's tokens that do not stay go; older ones, lengths and what follows are untouched."""
    layer = filled(window, 14)
    stays = torch.tensor([[False, True, False, False, True, True]])
    layer.drop(past=8, stays=stays, count=3, ragged=False)
    assert layer.get_seq_length() == 14
    slots, valid = layer.key_slots(1, torch.device("cpu"))
    assert torch.equal(keys(slots)[..., valid[0], :], layer.keys[..., valid[0], :])
    seen = range(max(14 - window + 1, 0) if window else 0, 14)
    expected = [i for i in seen if i < 8 or i in (9, 12, 13)]
    assert slots[valid].tolist() == expected
    assert layer.physical_length() - len(expected) == int((~valid).sum()) and (
        layer.ragged or bool(valid.all())
    )
    more = torch.tensor([[14, 15]])
    layer.update(keys(more), keys(more))
    slots, valid = layer.key_slots(1, torch.device("cpu"))
    assert layer.get_seq_length() == 16 and slots[valid].tolist()[-4:] == [12, 13, 14, 15]
    assert torch.equal(keys(slots)[..., valid[0], :], layer.keys[..., valid[0], :])
