"""ToMe: the likest pairs of projected tokens are merged until the budget is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import StageSizes
from ..core.stage import Counts, StageInput
from ..errors import SparseSightError
from .merged import MergesAll, merge_in_order

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class ToMe(MergesAll):
    """Bipartite soft matching of the tokens that enter the language model; nothing is dropped, all are merged.

    Bolya et al., "Token Merging: Your ViT But Faster", arXiv:2210.09461, section 3. The paper merges a fixed number of
    tokens in every layer of a vision transformer, compares keys and lets attention know how many patches a token
    stands for. Here the tower stays as it is: projected tokens are compared, in as many rounds as it takes (each halves
    them at most), and attention is not told. A merged token is the mean of all it was made of and stands where its
    member of set B stood; the order of the prompt is kept between rounds. Tokens of different pictures may be merged.
    There is no published setting for language models to restore.

    Raises:
        SparseSightError: with ``per_frame=True``, as how many tokens of a frame are alike cannot be chosen.
    """

    name: ClassVar[str] = "tome"

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
        """Each round compares one half with the other and adds it up; one average at the end."""
        left, pairs = sizes.tokens_in, 0
        while left > sizes.merged:
            pairs += 2 * (left // 2) * (left - left // 2)
            left = max(sizes.merged, left - left // 2)
        return (pairs + sizes.recycled * sizes.merged) * sizes.hidden
