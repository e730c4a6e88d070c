"""Counters on ``/metrics``, in the process that answers requests; with several such processes, vLLM adds them up."""

from __future__ import annotations

from functools import cache
from typing import Any

from .requests import Outcome

# Counter, what it counts, and its labels besides the model's name.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "prompts_pruned": ("Prompts whose visual tokens were pruned.", ()),
    "prompts_unpruned": ("Prompts with visual tokens that were all kept, by reason.", ("reason",)),
    "requests_refused": ("Requests refused because of an argument of sparsesight.", ()),
    "visual_tokens": ("Visual tokens of pruned prompts.", ()),
    "visual_tokens_kept": (
        "Visual tokens of pruned prompts that were kept, averaged over decoder layers.",
        (),
    ),
    "prefix_cache_hit_tokens": ("Tokens from the first picture of a pruned prompt on that were cached.", ()),
}


class Metrics:
    """The counters of one served model.

    Args:
        model: its name, the label ``model_name`` as in vLLM's own metrics.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    def _add(self, name: str, amount: float = 1, **labels: str) -> None:
        _counter(name).labels(self.model, *labels.values()).inc(amount)

    def count(self, outcome: Outcome) -> None:
        """A request with visual tokens that goes to the engine."""
        if outcome.reason:
            self._add("prompts_unpruned", reason=outcome.reason)
            return
        self._add("prompts_pruned")
        self._add("visual_tokens", outcome.visual)
        self._add("visual_tokens_kept", outcome.kept)

    def refuse(self) -> None:
        """A request that is refused."""
        self._add("requests_refused")

    def cached(self, outcome: Outcome, tokens: int) -> None:
        """How many tokens of a pruned prompt the prefix cache had, from the prompt's beginning."""
        self._add("prefix_cache_hit_tokens", max(tokens - outcome.first, 0))


@cache
def _counter(name: str) -> Any:
    from prometheus_client import Counter

    text, labels = COUNTERS[name]
    return Counter(f"sparsesight:{name}", text, ("model_name", *labels))
