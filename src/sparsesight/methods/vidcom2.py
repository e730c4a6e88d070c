"""VidCom2: frames that differ from the clip get more tokens, and in each frame those that differ stay.

Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
arXiv:2505.14454.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import PreDecoderMethod
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class VidCom2(PreDecoderMethod):
    """Before the language model, keep the tokens least like the mean of their frame and of the clip.

    With ``u_i`` the unit vectors of the visual tokens, on the half of the channels that vary least, and ``K(d) = sum
    exp(-d**2 / 2a)`` over ``a`` = 1/8, 1/4, 1/2, 1, 2: a token's score is ``-K(|u_i - c|) - K(|u_i - f|)``, ``c`` the
    mean of the clip and ``f`` that of its frame. A frame's share of the budget is proportional to ``n_f (1 + s_f -
    mean s)``, ``s`` the softmax over frames of minus the mean ``K(|u_i - c|)`` divided by ``temperature``.

    Attributes:
        temperature: of the softmax over frames. Released: 0.01.

    Faithful: channels, kernels, shares, scores. Different: the total is exact (in the released code each frame's count
    is rounded by itself), and a frame that has fewer tokens than its share gives the rest to the others; the tokens
    that end the rows of LLaVA-Video are scored like all others, while the released code keeps them all. In a prompt
    of pictures, each is a frame. ``per_frame=True`` gives each frame an equal share instead. ``positions="original"``
    (:meth:`published` renumbers them).
    """

    temperature: float = 0.01

    name: ClassVar[str] = "vidcom2"
    when: ClassVar[str] = "clips: frames share the budget by how much they differ"
    meaning: ClassVar[Meaning] = Meaning("order by difference from clip and frame")
    published_at: ClassVar[Sequence[Retain]] = (0.25, 0.15)
    requires_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.temperature) or self.temperature < 1e-4:
            raise SparseSightError(
                f"temperature={self.temperature!r}: a number of at least 0.0001, such as 0.01"
            )

    @classmethod
    def published(cls, ratio: float = 0.25) -> VidCom2:
        """As released for LLaVA-OneVision: a quarter of the tokens, or 15 %."""
        return cls(ratio, positions="compact", judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        assert stage.frame is not None
        place = ops.unlike_mean_ranks(stage.features(), stage.frame, stage.visual, self.temperature)
        return -place.float()

    def overhead(self, sizes: StageSizes) -> int:
        """Variances, the two means, and two distances of each token."""
        return 5 * sizes.tokens_in * sizes.hidden
