"""The cost of a method at a budget, before anything runs, and budgets at which two methods cost the same.

Comparisons use one number: multiply-adds of the language model's prefill, including the method's own overhead
(:mod:`sparsesight.macs` states the conventions). Equal tokens are not used, as a method that prunes after the third
layer computes more at 64 equal tokens than one that prunes before the first.

The cost of a budget is set by :data:`REFERENCE`: ``retain=64`` stands for the cost of SparseVLM+ at ``retain=64`` with
its default layers, which at 32 layers and 576 tokens is its published schedule. Another method then gets the number of
tokens that costs the same, which may be larger or smaller than 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

from .core.budget import Retain, Schedule
from .errors import BudgetError, SparseSightError
from .macs import DecoderShape
from .methods import Method, SparseVLMPlus

REFERENCE = SparseVLMPlus()
# What a budget is where methods stand side by side; ``retain`` itself is always a method's own average.
STANDS_FOR = f"a budget is the cost of {REFERENCE.name} at that retain"
EQUAL = 0.01  # relative; costs that differ by no more are called equal, wherever methods stand side by side


@dataclass(frozen=True)
class PromptSizes:
    """Sizes of a prompt.

    Attributes:
        visual: visual tokens.
        text: text tokens after the visual ones.
        before: text tokens before or between them.
    """

    visual: int
    text: int
    before: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of the prefill of one prompt."""

    macs: int  # multiply-adds, overhead included
    overhead: int  # of the method itself
    equal_tokens: float  # visual tokens per layer, as published: those that leave a layer
    equal_tokens_entering: float
    kv_bytes: int


@dataclass(frozen=True)
class Fitted:
    """A method at the budget that has the requested cost, as closely as whole tokens allow."""

    method: Method
    cost: Cost
    target: int  # requested multiply-adds

    @property
    def deviation(self) -> float:
        """Relative difference to the target: 0.01 costs one percent more."""
        return self.cost.macs / self.target - 1


def cost(
    method: Method | None, shape: DecoderShape, prompt: PromptSizes, allowed: tuple[int, ...] | None = None
) -> Cost:
    """The cost of a prompt's prefill under ``method`` (None: dense).

    Args:
        method: with counts known from sizes.
        shape: of the decoder.
        prompt: its sizes.
        allowed: layers after which the model can prune; default all but the last.

    Raises:
        BudgetError: the budget cannot be met.
        SparseSightError: the counts depend on the data.
    """
    if method is None:
        return _cost(None, Schedule(prompt.visual, len(shape.layers), ()), shape, prompt)
    if method.data_dependent:
        raise SparseSightError(
            f"{method} derives its counts from the data: its cost is known only after a run"
        )
    count = len(shape.layers)
    schedule = method.plan(prompt.visual, count, method.stage_layers(count, allowed))
    return _cost(method, schedule, shape, prompt)


def _cost(method: Method | None, schedule: Schedule, shape: DecoderShape, prompt: PromptSizes) -> Cost:
    others = prompt.before + prompt.text
    entering = [others + n for n in schedule.entering]
    overhead = 0
    if method is not None:
        overhead = shape.overhead_macs(schedule, others, prompt.text, method.overhead)
    lengths = shape.kv_lengths(entering, [0] * len(entering))
    return Cost(
        shape.prefill_macs(entering) + overhead,
        overhead,
        schedule.equal_tokens,
        schedule.equal_tokens_entering,
        shape.kv_cache_bytes(lengths),
    )


@lru_cache(maxsize=1024, typed=True)
def fit(
    method: Method,
    retain: int | float,
    shape: DecoderShape,
    prompt: PromptSizes,
    allowed: tuple[int, ...] | None = None,
) -> Fitted:
    """``method`` at the budget that costs as much as :data:`REFERENCE` at ``retain``.

    A schedule that is published for ``retain`` is used unchanged if it costs the same to within :data:`EQUAL`.

    The budget is solved for one prompt. If prompts differ in size, give ``retain`` as a ratio: then the result is a
    ratio, and costs at other sizes are equal as far as they scale alike.

    Args:
        method: its options stay; its ``retain`` is replaced, and also its layers if the published ones cannot meet the
            cost (:meth:`Method.with_budget`).
        retain: visual tokens per layer, or a ratio.
        shape: of the decoder.
        prompt: sizes to solve for.
        allowed: layers after which the model can prune; default all but the last.

    Returns:
        The nearest budget; :attr:`Fitted.deviation` is the difference, which is large if no budget of the method costs
        so little.

    Raises:
        BudgetError: ``retain`` is invalid, or the reference itself cannot meet it.
        SparseSightError: the counts depend on the data.
    """
    if method.data_dependent:
        raise SparseSightError(
            f"{method} derives its counts from the data: its cost is known only after a run"
        )
    if isinstance(retain, bool) or not isinstance(retain, int | float):
        raise BudgetError(f"retain={retain!r}: equal costs are solved for a number of tokens or a ratio")
    count = len(shape.layers)
    target = reference_macs(retain, shape, prompt, allowed)
    published = _published(method, retain, shape, prompt, allowed)
    if published is not None:
        found = Fitted(published, cost(published, shape, prompt, allowed), target)
        if abs(found.deviation) <= EQUAL:
            return found
    best: Fitted | None = None
    low, high = 1, prompt.visual  # in tokens
    failed: BudgetError | None = None
    while low <= high:
        tokens = (low + high) // 2
        try:
            candidate = _at(method, retain, tokens, prompt.visual, count)
            found = Fitted(candidate, cost(candidate, shape, prompt, allowed), target)
        except BudgetError as error:  # too few tokens for the layers it prunes at
            failed, low = error, tokens + 1
            continue
        if best is None or abs(found.deviation) < abs(best.deviation):
            best = found
        if found.cost.macs < target:
            low = tokens + 1
        else:
            high = tokens - 1
    if best is None:
        raise failed or BudgetError(
            "the prompt has no visual tokens: equal costs are solved for one with a picture"
        )
    return best


def reference_macs(
    retain: int | float, shape: DecoderShape, prompt: PromptSizes, allowed: tuple[int, ...] | None = None
) -> int:
    """What ``retain`` stands for: the multiply-adds of :data:`REFERENCE` at it.

    Raises:
        BudgetError: the reference cannot meet it.
    """
    reference = REFERENCE.with_budget(retain, prompt.visual, len(shape.layers))
    try:
        return cost(reference, shape, prompt, allowed).macs
    except BudgetError as error:
        raise BudgetError(
            f"{error}. That is the reference, which says what a budget costs; --same-retain measures methods at their "
            "own average"
        ) from None


def _published(
    method: Method, retain: Retain, shape: DecoderShape, prompt: PromptSizes, allowed: tuple[int, ...] | None
) -> Method | None:
    """``method`` at ``retain`` if it would use its published schedule there."""
    counts = method.published_budgets.get(retain) if isinstance(retain, int) else None
    if counts is None:
        return None
    count = len(shape.layers)
    same = method.with_budget(retain, prompt.visual, count)
    try:
        schedule = same.plan(prompt.visual, count, same.stage_layers(count, allowed))
    except BudgetError:
        return None
    return same if tuple(stage.keep for stage in schedule.stages) == counts else None


def _at(method: Method, retain: Retain, tokens: int, visual: int, num_layers: int) -> Method:
    """``method`` at the given number of tokens, as a ratio if the budget was one."""
    return method.with_budget(tokens if isinstance(retain, Integral) else tokens / visual, visual, num_layers)
