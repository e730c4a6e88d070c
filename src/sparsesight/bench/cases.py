"""Which methods are measured: each at the budget that costs what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..budget import Retain
from ..cost import Prompt, cost, fit
from ..errors import SparseSightError
from ..hf.families import anatomy
from ..hf.inputs import among
from ..methods import Method
from ..metrics import DecoderShape


class Case(NamedTuple):
    """A method to measure.

    Attributes:
        name: what tables call it.
        retain: the budget that was asked for.
        method: the method at the budget that meets it.
        deviation: how much more it costs than was asked for, relatively.
    """

    name: str
    retain: Retain
    method: Method
    deviation: float = 0.0


def make_cases(
    methods: Mapping[str, Method],
    budgets: Sequence[int | float],
    shape: DecoderShape,
    prompt: Prompt,
    allowed: tuple[int, ...] | None = None,
    same_retain: bool = False,
) -> list[Case]:
    """Every method at every budget; a budget costs the same prefill FLOPs for all (:func:`sparsesight.cost.fit`).

    With ``same_retain`` it is the same average number of tokens for all, whatever that costs.

    Raises:
        BudgetError: if a budget cannot be met.
        SparseSightError: if one leaves nothing to prune, or a method decides its counts from data.
    """
    cases = []
    for name, method in methods.items():
        for retain in budgets:
            found = fit(method, retain, shape, prompt, allowed)
            chosen, deviation = found.method, found.deviation
            if same_retain:
                chosen = method.fitted(retain, prompt.visual, len(shape.layers))
                deviation = cost(chosen, shape, prompt, allowed).flops / found.target - 1
            layers = chosen.stage_layers(len(shape.layers), allowed)
            if not chosen.plan(prompt.visual, len(shape.layers), layers).stages:
                raise SparseSightError(
                    f"retain={retain!r}: {name} keeps all {prompt.visual} visual tokens, there is nothing to measure"
                )
            cases.append(Case(name, retain, chosen, deviation))
    return cases


def prompt_sizes(model: Any, prompt: Mapping[str, Any]) -> Prompt:
    """Sizes of the first prompt of a batch, which has no padding."""
    visual = among(prompt["input_ids"][0], anatomy(model).visual_ids)
    places = visual.nonzero()[:, 0].tolist()
    if not places:
        raise SparseSightError("the prompt has no visual tokens, there is nothing to measure")
    text = len(visual) - 1 - places[-1]
    return Prompt(len(places), text, len(visual) - len(places) - text)
