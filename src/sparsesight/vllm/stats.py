"""What the plugin did with prompts, counted and told to operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .config import logger
from .planner import RequestPlan
from .step_plan import Prompt


@dataclass
class Tally:
    """What has happened since the model was loaded. Of what may come often, the 1st, 10th, 100th, ... is logged."""

    pruned: int = 0  # prompts, each time that visual tokens of it were chosen
    # Of these, to as many tokens after every pruning layer, as their pictures cannot meet the server's average.
    lifted: int = 0
    too_long: int = (
        0  # prompts with pictures that were kept, as with their question they are longer than a step
    )
    unmet: int = 0  # prompts that were kept, as they cannot meet the budget
    refused: int = 0  # prompts that were kept, as what they asked for cannot be

    def count_request(self, plan: RequestPlan, name: str) -> None:
        """Add a request with this name, of which nothing was computed yet."""
        if plan.refused or plan.unmet:
            self.refused += bool(plan.refused)
            self.unmet += bool(plan.unmet)
            logger.warning("request %s is answered without pruning: %s", name, plan.refused or plan.unmet)
        if plan.too_long:
            self.too_long += 1
            if _is_round(self.too_long):
                logger.warning(
                    "request %s: pictures are kept whole, as with their question they are longer than a step: pass a "
                    "larger --max-num-batched-tokens (%d so far)",
                    name,
                    self.too_long,
                )

    def count_step(self, prompts: Sequence[Prompt], names: Callable[[int], str]) -> None:
        """Add what a step prunes; ``names`` gives the id of a request."""
        self.pruned += len(prompts)
        for prompt in prompts:
            if prompt.plan.lifted:
                self.lifted += 1
                if _is_round(self.lifted):
                    logger.warning(
                        "request %s is pruned to %.0f visual tokens on average, as its pictures cannot meet the "
                        "server's budget: %s; a ratio fits pictures of any size (%d so far)",
                        names(prompt.request),
                        sum(region.schedule.equal_tokens for region in prompt.pruned),
                        prompt.plan.lifted,
                        self.lifted,
                    )


def _is_round(count: int) -> bool:
    """Whether a count is 1, 10, 100, ..."""
    return str(count).rstrip("0") == "1"
