"""The methods to measure, each at the budget of the requested cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.budget import Retain
from ..equal_cost import PromptSizes, cost, fit, reference_macs
from ..errors import BudgetError, SparseSightError
from ..hf.model_parts import inspect_model
from ..hf.prompt.inputs import prompt_sizes
from ..macs import DecoderShape
from ..methods import Method, has_budget, is_published, make_method


class Case(NamedTuple):
    """A method to measure.

    Attributes:
        name: what tables call it.
        retain: the budget that was asked for; None for a published setting that takes none.
        method: the method at the budget that meets it.
        deviation: how much more it costs than was asked for, relatively; 0 where nothing was asked for.
    """

    name: str
    retain: Retain | None
    method: Method
    deviation: float = 0.0


def make_cases(
    methods: Mapping[str, Method],
    budgets: Sequence[int | float],
    shape: DecoderShape,
    prompt: PromptSizes,
    allowed: tuple[int, ...] | None = None,
    same_retain: bool = False,
) -> list[Case]:
    """Every method at every budget; a budget costs the same prefill FLOPs for all (:func:`sparsesight.equal_cost.fit`).

    With ``same_retain`` it is the same average number of tokens for all, whatever that costs; a budget that the
    reference of costs cannot meet, as it prunes too late, then stands for what the first method costs at it. A
    published setting is measured as it is, at every budget or, where it takes none, once.

    Raises:
        BudgetError: if a budget cannot be met, or is none of a published setting.
        SparseSightError: if one leaves nothing to prune, or a method decides its counts from data.
    """
    cases = []
    targets: dict[int | float, int] = {}
    for name, method in methods.items():
        for retain in budgets if has_budget(name, method) or method.data_dependent else (None,):
            chosen, deviation = method, 0.0
            if retain is not None and not same_retain and not is_published(name):
                found = fit(method, retain, shape, prompt, allowed)
                chosen, deviation = found.method, found.deviation
            elif retain is not None:
                if is_published(name):
                    chosen = make_method(name, retain=retain)
                else:
                    chosen = method.with_budget(retain, prompt.visual, len(shape.layers))
                macs = cost(chosen, shape, prompt, allowed).macs
                if retain not in targets:
                    targets[retain] = _target(retain, shape, prompt, allowed) or macs
                deviation = macs / targets[retain] - 1
            layers = chosen.stage_layers(len(shape.layers), allowed)
            if not chosen.plan(prompt.visual, len(shape.layers), layers).stages:
                raise SparseSightError(
                    f"retain={chosen.retain!r}: {name} keeps all {prompt.visual} visual tokens, there is nothing to "
                    "measure"
                )
            cases.append(Case(name, retain, chosen, deviation))
    return cases


def _target(
    retain: int | float, shape: DecoderShape, prompt: PromptSizes, allowed: tuple[int, ...] | None
) -> int | None:
    try:
        return reference_macs(retain, shape, prompt, allowed)
    except BudgetError:
        return None


def first_prompt(model: Any, prompt: Mapping[str, Any]) -> PromptSizes:
    """Sizes of the first prompt of a batch.

    Raises:
        SparseSightError: it has no visual tokens.
    """
    sizes = prompt_sizes(prompt, inspect_model(model).visual_ids)[0]
    if not sizes.visual:
        raise SparseSightError("the prompt has no visual tokens, there is nothing to measure")
    return sizes
