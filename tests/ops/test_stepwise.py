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
    """Favored steps of all samples and of some, duplicates, padding, counts of which few tokens add anything."""
    x = torch.cat([picture(seed * 10 + i, 60, 24) for i in range(2)])
    x[0, 20:30] = x[0, 20]
    valid = torch.arange(60) >= torch.tensor([[0], [17]])
    favor = x[..., 1].clamp(-2, 2).exp()
    for favored in ([12, 12], [9, 14], [0, 20]):
        keep = torch.tensor([40, 20])
        on_cpu = ops.greedy_gaussian_map(x, valid, keep, 40, favor, favored)
        with monkeypatch.context() as patch:
            patch.setattr(ops.diversity, "reads_are_free", lambda x: False)
            patch.setattr(ops.stepwise, "WIDEST", widest)
            found = ops.greedy_gaussian_map(x, valid, keep, 40, favor, favored)
        assert torch.equal(found[valid], on_cpu[valid])


class Operations(TorchDispatchMode):
    """Counts what would be launched: operations that are no views."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("choice", ["halves", "dpp"])
def test_a_device_launches_little_for_each_token(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings on operations for one more token, favored or not."""
    monkeypatch.setattr(ops.diversity, "reads_are_free", lambda x: False)
    x = normal(0, 1, 80, 16)
    valid, quality = torch.ones(1, 80, dtype=torch.bool), torch.ones(1, 80)

    def launched(favored: int, keep: int) -> int:
        with Operations() as operations:
            if choice == "dpp":
                ops.greedy_dpp_map(x, quality, valid, torch.tensor([keep]), keep)
            else:
                ops.greedy_gaussian_map(x, valid, torch.tensor([keep]), keep, quality, [favored])
        return operations.count

    assert launched(8, 40) - launched(8, 30) <= 10 * 18
    if choice == "halves":
        assert launched(18, 40) - launched(8, 40) <= 10
