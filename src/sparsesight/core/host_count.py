"""Counts that the device computes and the host can use, without either waiting for the other."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops.rows import ROW_CHUNK

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class HostCount:
    """An integer that was computed on the device, on its way to the host.

    The copy is only queued, and nobody waits for it: it has usually arrived when it is read some layers later.

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

    def read(self) -> int | None:
        """An upper bound of the number, on a CPU the number itself; None if it has not arrived.

        From a device it is a whole number of chunks of rows: those that are scored are then the same chunks as if all
        rows were, and give the same bits, so that no result depends on when the number arrived.
        """
        if self._event is None:
            return self._host[0]
        return -(-int(self._copy) // ROW_CHUNK) * ROW_CHUNK if self._event.query() else None


def most_rows(rows: Bool[Tensor, "b r"]) -> HostCount | None:
    """The largest number of ``rows`` in any sample; None on a device if all of them are scored at once anyway."""
    if rows.device.type != "cpu" and rows.shape[1] <= ROW_CHUNK:
        return None
    return HostCount(rows.sum(1).amax())
