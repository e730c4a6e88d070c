"""Random: the control that every method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..core.budget import StageSizes
from ..core.facts import Meaning
from ..core.method import Method
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Random(Method):
    """Keep a random subset at each stage.

    The draw is a hash of (seed, stage, index of the token), not a generator: it is the same on every device, and a
    sample keeps the same tokens alone and in any batch.

    Attributes:
        seed: seed of the draw.
    """

    seed: int = 0

    name: ClassVar[str] = "random"
    when: ClassVar[str] = "what chance gives"
    meaning: ClassVar[Meaning] = Meaning("random numbers")
    control: ClassVar[bool] = True
    requires_attention: ClassVar[bool] = False
    requires_raters: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise SparseSightError(f"seed={self.seed!r}: a whole number")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        x = stage.origin + ((self.seed * 1_000_003 + stage.index + 1) * 0x9E3779B1) % 2**31
        for multiplier in (
            0x45D9F3B,
            0x45D9F3B,
            0x2C1B3C6D,
        ):  # xor-shift-multiply mixing, kept within 31 bits
            x = ((x ^ (x >> 16)) * multiplier) % 2**31
        return (x ^ (x >> 15)).float()

    def overhead(self, sizes: StageSizes) -> int:
        return 0
