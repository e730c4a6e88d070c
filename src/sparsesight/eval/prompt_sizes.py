"""How long prompts are, for budgets that are solved before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..equal_cost import Prompt
from ..hf.prompt.inputs import among

LOOKED_AT = 16  # items of a task


def batch_sizes(inputs: Any, visual_ids: tuple[int, ...]) -> list[Prompt]:
    """Sizes of every prompt of a batch, from its ``input_ids`` and ``attention_mask`` [b, n]."""
    mask = inputs["attention_mask"].bool()
    visual = among(inputs["input_ids"], visual_ids) & mask
    behind = visual.long().flip(1).cumsum(1).flip(1) == 0  # no visual token from here on
    text = (mask & behind).sum(1).tolist()
    sizes = zip(visual.sum(1).tolist(), text, mask.sum(1).tolist(), strict=True)
    return [Prompt(v, t if v else n, n - v - t if v else 0) for v, t, n in sizes]


def typical(prompts: Sequence[Prompt]) -> Prompt:
    """The one in the middle by length, among those with visual tokens where there are any."""
    some = [prompt for prompt in prompts if prompt.visual] or list(prompts)
    return sorted(some, key=lambda x: (x.visual, x.text + x.before, x.text))[len(some) // 2]
