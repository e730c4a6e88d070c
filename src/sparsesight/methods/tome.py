"""ToMe: merge the most similar pairs of projected tokens until the budget is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import StageSizes
from ..core.stage import Counts, StageInput
from ..errors import SparseSightError
from .merged import MergesAll, merge_in_order
from .proportional import Proportional

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class ToMe(MergesAll, Proportional):
    """Before the language model, merge the most similar tokens by bipartite soft matching; nothing is dropped.

    Bolya et al., "Token Merging: Your ViT But Faster", arXiv:2210.09461, section 3. The paper merges a fixed number of
    tokens in every layer of a vision transformer, compares keys, and weights attention by the number of patches that a
    token represents. Here the tower is unchanged: projected tokens are compared, in as many rounds as needed (each at
    most halves them). A merged token is the mean of all its members and takes the position of its member of set B; the
    order of the prompt is kept between rounds. Tokens of different pictures may be merged. There is no published
    setting for language models.

    Attributes:
        proportional: a token counts for all its members, as in the paper; off by default.

    Raises:
        SparseSightError: ``per_frame=True``, as the number of similar tokens in a frame cannot be prescribed.
    """

    name: ClassVar[str] = "tome"
    when: ClassVar[str] = "where nothing may be dropped; small objects are averaged with their surroundings"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_frame:
            raise SparseSightError(
                "per_frame=True: 'tome' merges what is alike over all pictures; 'pooling' gives each its share"
            )

    def merge(self, stage: StageInput, recycled: Int[Tensor, "b m"], counts: Counts) -> ops.Merge:
        def merge(column: Tensor) -> ops.Merge:
            return ops.bipartite_merge(
                ops.gather_rows(stage.features(), column), counts.recycled, counts.merged
            )

        return merge_in_order(recycled, counts.recycled, merge)

    def overhead(self, sizes: StageSizes) -> int:
        """Each round compares one half with the other and adds up the merged tokens; one average at the end."""
        left, pairs = sizes.recycled, 0  # none of a picture that nothing judges
        while left > sizes.merged:
            pairs += 2 * (left // 2) * (left - left // 2)
            left = max(sizes.merged, left - left // 2)
        return (pairs + sizes.recycled * sizes.merged) * sizes.hidden
