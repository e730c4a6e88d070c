"""No tensor function waits for the device, and shapes and dtypes are checked in tests."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsesight import ops

from .batches import (
    frequencies,
    normal,
    random_mask,
    true,
)


def test_wrong_shapes_and_dtypes_are_caught() -> None:
    """The checks that tests/conftest.py installs do check: arguments, results, dataclasses and named tuples."""
    jaxtyping = pytest.importorskip("jaxtyping")
    pytest.importorskip("beartype")
    from sparsesight.core.rows import Rows

    def refused(call: Callable[..., Any], *args: Any) -> None:
        with pytest.raises(jaxtyping.TypeCheckError):
            call(*args)

    row, flag = torch.zeros(2, 3, dtype=torch.long), true(2, 3)
    refused(ops.ranks, normal(0, 2, 3), true(2, 4))
    refused(ops.ranks, normal(0, 2, 3), torch.ones(2, 3))
    refused(ops.causal_rows, row.float(), 3, 0)
    refused(ops.merging._peaks, normal(0, 3), [3], [1], 1)
    refused(Rows, row, row, flag, flag, flag, flag, row[:, :2])
    refused(Rows.start, true(2, 3), true(2, 4))
    refused(ops.Merge, normal(0, 2, 3, 4), row, row, true(2, 2))


class Synchronised(Exception):
    pass


class NoSync(TorchDispatchMode):
    """Refuse what would read a tensor's values back to the host."""

    names = (
        "local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "masked_select",
        "equal",
        "unique",
        "bincount",
        "repeat_interleave",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        if name.startswith(self.names):
            raise Synchronised(str(func))
        if name.startswith("index"):  # a boolean index is a nonzero in disguise
            flat = [x for a in args for x in (a if isinstance(a, list | tuple) else [a])]
            if any(isinstance(x, Tensor) and x.dtype == torch.bool for x in flat[1:]):
                raise Synchronised(f"{func} with a boolean index")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync() -> Iterator[None]:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise Synchronised("a tensor was read")

    readers = ("item", "tolist", "nonzero", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
    with pytest.MonkeyPatch.context() as patch, NoSync():
        for name in readers:
            patch.setattr(Tensor, name, refuse)
        yield


QUERY, KEY, MASK = normal(0, 2, 4, 5, 8), normal(1, 2, 2, 9, 8), random_mask(2, 2, 1, 5, 9)
ROW = torch.tensor([[3, 1, 4, 0, 2], [0, 4, 2, 3, 1]])
FLAG = torch.tensor([[True, False, True, True, True], [True, True, False, True, False]])
FEATURES, KEEP = normal(0, 2, 5, 8), torch.tensor([3, 2])
SORTED = torch.arange(5).expand(2, -1)
CALLS: dict[str, Callable[[], Any]] = {
    "gather_rows": lambda: ops.gather_rows(normal(0, 2, 5, 3), ROW),
    "compact": lambda: ops.compact(FLAG, 4, ROW),
    "text_raters": lambda: ops.text_raters(normal(0, 2, 5, 8), normal(1, 2, 5, 8), FLAG, FLAG),
    "causal_rows": lambda: ops.causal_rows(ROW, 9, 4, true(2, 9)),
    "attention_rows": lambda: ops.attention_rows(QUERY, KEY, MASK, 0.4, 2.0),
    "head_sums": lambda: ops.head_sums(QUERY, KEY, MASK, FLAG, 0.4, 2.0, normal(3, 2, 5, 9)),
    "head_mean": lambda: ops.head_mean(QUERY, KEY, MASK, 0.4, 2.0),
    "select_heads": lambda: ops.select_heads(normal(0, 2, 4, 5), FLAG, 2),
    "rope_weight": lambda: ops.rope_weight(ROW, ROW, frequencies(8), 8),
    "ranks": lambda: ops.ranks(normal(0, 2, 5), FLAG),
    "group_ranks": lambda: ops.group_ranks(ROW, torch.zeros_like(ROW), torch.full_like(ROW, 5), FLAG),
    "first_ranked": lambda: ops.first_ranked(ROW, FLAG, torch.tensor([2, 1]), 3),
    "attention_rank": lambda: ops.attention_rank(normal(0, 2, 5, 5), FLAG, FLAG),
    "predicted_units": lambda: ops.predicted_units(normal(0, 2, 3, 4, 5), 0.1),
    "rank_rule": lambda: ops.rank_rule(torch.tensor([3, 4]), torch.tensor([9, 4]), 1.5, 0.0),
    "density_peaks_merge": lambda: ops.density_peaks_merge(normal(0, 3, 12, 4), [12, 9, 3], [2, 3, 1]),
    "nearest_kept": lambda: ops.nearest_kept(FEATURES, true(2, 5), FLAG, 4),
    "unit_vectors": lambda: ops.unit_vectors(FEATURES, FLAG),
    "farthest_point_ranks": lambda: ops.farthest_point_ranks(FEATURES, FLAG, KEEP, 3),
    "greedy_dpp_map": lambda: ops.greedy_dpp_map(FEATURES, normal(1, 2, 5).abs(), FLAG, KEEP, 3),
    "greedy_gaussian_map": lambda: ops.greedy_gaussian_map(
        FEATURES, FLAG, KEEP, 3, FEATURES[..., 0].exp(), [2, 1]
    ),
    "cosine_coverage": lambda: ops.cosine_coverage(FEATURES, FLAG),
    "softmax_coverage": lambda: ops.softmax_coverage(normal(1, 2, 3, 8), FEATURES, true(2, 3), FLAG, 0.1),
    "coverage_ranks": lambda: ops.coverage_ranks(
        ops.cosine_coverage(FEATURES, FLAG), normal(1, 2, 5).abs(), FLAG, KEEP, 3
    ),
    "unlike_mean_ranks": lambda: ops.unlike_mean_ranks(FEATURES, ROW // 2, FLAG, 0.1),
    "frame_segments": lambda: ops.frame_segments(FEATURES, ROW // 2, FLAG, 2, 0.9),
    "anchor_merge": lambda: ops.anchor_merge(FEATURES, SORTED // 2, SORTED // 4, [5, 4], [2, 1], 2, 0.6),
    "least_similar_places": lambda: ops.least_similar_places(
        FEATURES, FLAG, ROW == 3, normal(1, 2, 2, 8), true(2, 2), KEEP
    ),
    "even_target_merge": lambda: ops.even_target_merge(FEATURES, normal(1, 2, 5, 4), [5, 4], [2, 1]),
    "bipartite_merge": lambda: ops.bipartite_merge(FEATURES, [5, 4], [2, 1]),
    "thinned_places": lambda: ops.thinned_places(FEATURES, ROW, FLAG, KEEP - 1, KEEP, KEEP, 3),
    "likeness_variance": lambda: ops.likeness_variance(FEATURES, FLAG),
    "group_seats": lambda: ops.group_seats(torch.zeros_like(ROW), FLAG, KEEP),
    "evenly_spaced": lambda: ops.evenly_spaced(ops.group_seats(torch.zeros_like(ROW), FLAG, KEEP), FLAG),
    "grid_pool": lambda: ops.grid_pool(FEATURES, torch.zeros_like(ROW), [5, 4], [2, 1]),
    "apportion": lambda: ops.apportion(normal(0, 2, 5).abs(), ROW + 1, KEEP),
    "even_runs": lambda: ops.even_runs(FLAG, 2),
}


def test_every_function_is_known_here() -> None:
    public = {
        n for n, f in vars(ops).items() if inspect.isfunction(f) and f.__module__.startswith(ops.__name__)
    }
    assert {n for n in public if not n.startswith("_")} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_reads_a_value_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules.values()):  # tensors as if on a device
        if module.__name__.startswith("sparsesight.ops.") and hasattr(module, "reads_are_free"):
            monkeypatch.setattr(module, "reads_are_free", lambda x: False)
    with no_sync():
        CALLS[name]()


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: bool(x),
        lambda x: int(x),
        lambda x: torch.ones(1)[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: x.max() if x > 0 else x,
        lambda x: torch.equal(x, x),
        lambda x: torch.repeat_interleave(x, x.long()),
    ],
)
def test_reading_a_value_back_would_be_noticed(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(Synchronised), no_sync():
        read(torch.ones(1))
