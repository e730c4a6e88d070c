"""What filled a pruned cache, and which forwards may continue with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.budget import BEFORE
from ..errors import SparseSightError


@dataclass(frozen=True)
class FilledBy:
    """What filled a cache."""

    method: str
    layers: tuple[int, ...]  # it pruned after them
    positions: str
    trimmed: bool  # whether the layers up to the first stage were cut as well

    def fits(self, other: FilledBy) -> bool:
        """Whether ``other`` may continue with the cache: its layers hold keys of the same stages."""
        return replace(self, method="") == replace(other, method="")

    def refusal(self) -> SparseSightError:
        """The error for a forward that cannot continue with it."""
        how = f"pruning after layers {self.layers}" + (
            " (-1: before the first)" if BEFORE in self.layers else ""
        )
        how += ", compact positions" if self.positions == "compact" else ""
        how += ", early layers trimmed" if self.trimmed else ""
        return SparseSightError(
            f"past_key_values: this cache was filled by {self.method} {how}; its layers hold fewer keys than another "
            "method, other layers or the plain model expect: go on within sparsify() of the same, or start a new cache"
        )
