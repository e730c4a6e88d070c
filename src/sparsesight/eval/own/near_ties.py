"""Near-ties: tokens of which another batch, or another way to the same logits, may choose the other one.

In bfloat16 a row's logits differ a little between batches, and between one forward over an answer and its generation
token by token. Greedy decoding shows this only where two tokens are about as likely. Rows with such a token are asked
alone, so that answers, and whether they stay, do not depend on the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

# Of the largest logit's rounding. In bfloat16 the gap between the two best tokens of the bundled model differed by
# at most 0.375 between batches of 8 and single rows, 1.3 times the rounding of its largest logit (96 scenes);
# of smol by 0.25, 0.8 times (20 drawn pictures, of which 4 have near-ties). No answer differed in either.
ROUNDINGS = 2.0
LEAST = 1e-3  # what float32 may differ by


def near_tie(logits: Float[Tensor, "m vocabulary"], dtype: torch.dtype) -> bool:
    """Whether at some token the second best is nearly as likely as the best.

    Args:
        logits: of an answer's tokens.
        dtype: that the model computes in.
    """
    logits = logits.float()
    best = logits.topk(2).values
    rounding = torch.finfo(dtype).eps * logits.abs().amax(-1)
    return bool((best[:, 0] - best[:, 1] < (ROUNDINGS * rounding).clamp(min=LEAST)).any())
