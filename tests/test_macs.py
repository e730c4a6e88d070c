"""Costs by hand."""

from __future__ import annotations

import pytest

from sparsesight.macs import DecoderShape, LayerShape

LAYERS, HIDDEN, FFN, HEADS = 3, 64, 96, 4


# -- decoder shapes ----------------------------------------------------------------------------------------------


def test_macs_of_multi_head_attention_are_the_published_formula() -> None:
    d, m, entering = HIDDEN, FFN, (50, 50, 20)
    expected = sum(4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m for n in entering)
    assert DecoderShape.llama(LAYERS, d, m, HEADS).prefill_macs(entering) == expected


def test_macs_of_grouped_query_attention_by_hand() -> None:
    """Keys and values are half as wide with two of four heads; attention itself is as dear as before."""
    shape = DecoderShape.llama(2, 64, 96, 4, kv_heads=2)
    per_token = 64 * 64 + 64 * 32 + 64 * 32 + 64 * 64 + 3 * 64 * 96
    assert shape.layers[1].linear == per_token
    assert shape.prefill_macs((10, 7)) == 17 * per_token + 2 * 64 * (10 * 10 + 7 * 7)


def test_macs_with_a_past_by_hand() -> None:
    shape = DecoderShape.llama(2, 64, 96, 4)
    new = shape.prefill_macs((10, 7))
    assert shape.prefill_macs((10, 7), (5, 3)) == new + 2 * 64 * (10 * 5 + 7 * 3)


def test_macs_need_a_count_for_every_layer() -> None:
    shape = DecoderShape.llama(2, 64, 96, 4)
    for counts in ((10,), (10, 10, 10)):
        with pytest.raises(ValueError, match="zip"):
            shape.prefill_macs(counts)


def test_kv_bytes_by_hand() -> None:
    """Keys and values of 17 tokens: two heads of width 16, in halves and in fp32."""
    for size in (2, 4):
        shape = DecoderShape.llama(2, 64, 96, 4, kv_heads=2, kv_bytes=size)
        assert shape.kv_cache_bytes((10, 7)) == 2 * 17 * 2 * 16 * size


def test_windows_and_layers_without_keys_by_hand() -> None:
    """A window of 8 keeps 7 keys; a layer that caches nothing holds nothing, and one of no width attends to nothing."""
    full, window, recurrent = LayerShape(5, 4, 6), LayerShape(5, 4, 6, window=8), LayerShape(7, 0, 0)
    shape = DecoderShape(16, (full, window, recurrent, full), 2)
    assert shape.kv_lengths((10, 10, 10, 3), (2, 7, 0, 1)) == (12, 7, 0, 4)
    assert shape.kv_cache_bytes((12, 7, 0, 4)) == 2 * 6 * (12 + 7 + 4)
    attention = 2 * 4 * (10 * 12 + 10 * 17 + 3 * 4)
    assert shape.prefill_macs((10, 10, 10, 3), (2, 7, 0, 1)) == 5 * 23 + 7 * 10 + attention


def test_what_a_cache_was_seen_to_hold_counts() -> None:
    shape = DecoderShape.llama(2, 64, 96, 4)
    assert shape.caching((3, 0)).kv_cache_bytes((5, 7)) == 2 * 15
    assert shape.caching((3, 0)).prefill_macs((5, 7)) == shape.prefill_macs((5, 7))


def test_no_prefill_peaks_below_its_keys_and_hidden_states() -> None:
    """The most is at the end of a dense one, and may be at the start of one that is pruned."""
    shape = DecoderShape(hidden=100, layers=(LayerShape(1, 1, 10),) * 3, kv_bytes=2)
    assert shape.least_peak_bytes([50, 50, 50]) == 2 * (3 * 50 * 10 + 50 * 100)
    assert shape.least_peak_bytes([50, 5, 5]) == 2 * (50 * 10 + 50 * 100)
    assert shape.least_peak_bytes([50, 48, 48]) == 2 * (50 * 10 + 2 * 48 * 10 + 48 * 100)
