"""Greedy selection where nothing may be read from the device: what a CPU selects, with few launches for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsesight import ops

from .test_diversity import normal, picture


@pytest.mark.parametrize("widest", [1024, 0])
@pytest.mark.parametrize("seed", range(3))
def test_devices_select_what_a_cpu_selects(seed: int, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given tokens at once and one by one, duplicates among them, padding, counts of which few tokens add anything."""
    x = torch.cat([picture(seed * 10 + i, 60, 24) for i in range(2)])
    x[0, 20:30] = x[0, 20]
    valid = torch.arange(60) >= torch.tensor([[0], [17]])
    given = ops.ranks(x[..., 1], valid)
    for held in ([12, 12], [9, 14], [0, 20]):
        keep = torch.tensor([40, 20])
        on_cpu = ops.greedy_gaussian_map(x, given, held, valid, keep, 40)
        with monkeypatch.context() as patch:
            patch.setattr(ops.diversity, "reads_are_free", lambda x: False)
            patch.setattr(ops.stepwise, "WIDEST", widest)
            found = ops.greedy_gaussian_map(x, given, held, valid, keep, 40)
        assert torch.equal(found[valid], on_cpu[valid])


class Operations(TorchDispatchMode):
    """Counts what would be launched: operations that are no views."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("choice", "given", "others"), [("halves", 6, 18), ("dpp", None, 18)])
def test_a_device_launches_little_for_each_token(
    choice: str, given: int | None, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceilings on operations for one more given token, and for one more that is searched for."""
    monkeypatch.setattr(ops.diversity, "reads_are_free", lambda x: False)
    x = normal(0, 1, 80, 16)
    valid, order, quality = torch.ones(1, 80, dtype=torch.bool), torch.arange(80)[None], torch.ones(1, 80)

    def launched(held: int, keep: int) -> int:
        with Operations() as operations:
            if choice == "dpp":
                ops.greedy_dpp_map(x, quality, valid, torch.tensor([keep]), keep)
            else:
                ops.greedy_gaussian_map(x, order, [held], valid, torch.tensor([keep]), keep)
        return operations.count

    assert launched(8, 40) - launched(8, 30) <= 10 * others
    if given is not None:
        assert launched(18, 40) - launched(8, 30) <= 10 * given
