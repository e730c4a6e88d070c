"""What the plugin did with prompts, counted and told to operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .config import logger
from .planner import Step, StepPlan


@dataclass
class Tally:
    """What has happened since the model was loaded. Of what may come often, the 1st, 10th, 100th, ... is logged."""

    pruned: int = 0  # prompts
    # Of these, to as many tokens after every pruning layer, as their pictures cannot meet the server's average.
    lifted: int = 0
    chunked: int = 0  # prompts that were kept, as they came in parts
    unmet: int = 0  # prompts that were kept, as they cannot meet the budget
    refused: int = 0  # prompts that were kept, as what they asked for cannot be

    def __post_init__(self) -> None:
        self._parts: dict[int, str] = {}  # the last prompt that came in parts, by block, or slot

    def count(self, step: Step, plan: StepPlan, names: Callable[[int], str]) -> None:
        """Add a step; ``names`` gives the id of a request."""
        self.pruned += len(plan.prompts)
        self.unmet += len(plan.unmet)
        for prompt in plan.prompts:
            if prompt.lifted:
                self.lifted += 1
                if _is_round(self.lifted):
                    logger.warning(
                        "request %s is pruned to %.0f visual tokens on average, as its pictures cannot meet the "
                        "server's budget: %s; a ratio fits pictures of any size (%d so far)",
                        names(prompt.request),
                        prompt.schedule.equal_tokens,
                        prompt.lifted,
                        self.lifted,
                    )
        for r in plan.chunked:
            block, name = int(step.block[r]), names(r)
            if self._parts.get(block) == name:
                continue  # a later part of that prompt
            self._parts[block] = name
            self.chunked += 1
            if _is_round(self.chunked):
                logger.warning(
                    "request %s is answered without pruning, as its prompt is computed in parts: pass "
                    "--no-enable-chunked-prefill, or a larger --max-num-batched-tokens (%d so far)",
                    name,
                    self.chunked,
                )
        for r, why in plan.unmet:
            logger.warning("request %s is answered without pruning: %s", names(r), why)


def _is_round(count: int) -> bool:
    """Whether a count is 1, 10, 100, ..."""
    return str(count).rstrip("0") == "1"
