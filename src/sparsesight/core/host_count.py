"""Counts that the device computes and the host needs, read without stalling the device."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

# Up to this many text tokens, a device scores all of them instead of reporting the number of raters to the host.
FEW = 128


class HostCount:
    """An integer that was computed on the device, on its way to the host.

    The copy is only queued. :meth:`read` waits only for work that was queued before it: read some layers later, it does
    not stall the device, which still has those layers to run.

    Args:
        count: a scalar on any device.
    """

    def __init__(self, count: Int[Tensor, ""]) -> None:
        self._event: torch.Event | None = None
        if count.device.type == "cpu":
            self._host = array("q", [0])
            torch.frombuffer(self._host, dtype=torch.int64).copy_(count)
            return
        self._copy = count.to("cpu", non_blocking=True)
        self._event = torch.Event(device=count.device)
        self._event.record(torch.accelerator.current_stream(count.device))

    def read(self) -> int:
        """The number."""
        if self._event is None:
            return self._host[0]
        self._event.synchronize()
        return int(self._copy)


def most_rows(rows: Bool[Tensor, "b r"]) -> HostCount | None:
    """The largest number of ``rows`` in any sample; None if reading it costs more than using all rows."""
    if rows.device.type != "cpu" and rows.shape[1] <= FEW:
        return None
    return HostCount(rows.sum(1).amax())
