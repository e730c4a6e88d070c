"""What becomes of a request's visual tokens, decided by its ids and sizes before it reaches an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BudgetError, SparseSightError, brief
from ..hf.model_parts import layer_kinds, prunable
from ..hf.prompt.frames import FrameRule
from ..methods import Method
from ..settings import KEY
from .config import (
    REQUEST_KEY,
    RequestBudget,
    asked_of,
    check_names,
    kv_groups_of,
    method_of,
    turns_of,
)
from .drafts import check_drafter
from .planner import Planner, RequestPlan, schedule_of, visual_mask
from .validation import check_method, check_tower

# Why a request with visual tokens is not pruned.
BY_REQUEST, BY_SERVER = "the request keeps every token", "the server keeps every token by default"
NO_TEXT, SMALL = "no text scores the visual tokens", "no more visual tokens than the budget"
UNMET = "the visual tokens cannot meet the server's budget"
TOO_LONG = "pictures and their question are longer than a step"
ROUNDED = "what is beyond the budget fills no block of keys"
REASONS = (BY_REQUEST, BY_SERVER, NO_TEXT, SMALL, UNMET, TOO_LONG, ROUNDED)


@dataclass(frozen=True)
class Rule(Planner):
    """How a server prunes, read once from its configuration."""

    @classmethod
    def of(cls, config: Any) -> Rule | None:
        """Of a ``VllmConfig``; None if it has no entry for sparsesight.

        Raises:
            SparseSightError: the entry cannot work.
        """
        method = method_of(config.additional_config)
        return None if method is None else planner_of(config, method)

    def budget(self, params: Any) -> RequestBudget:
        """The budget of a request with these sampling parameters.

        Raises:
            SparseSightError: an argument of the request is invalid.
        """
        return asked_of(self.method, self.stages, getattr(params, "extra_args", None))


def planner_of(config: Any, method: Method) -> Rule:
    """What decides about requests under a ``VllmConfig``: alike in front end, scheduler and worker.

    Raises:
        SparseSightError: as :func:`stages_of`.
    """
    stages, num_layers = stages_of(config, method)
    scheduler = config.scheduler_config
    steps = (
        scheduler.max_num_batched_tokens,
        getattr(scheduler, "max_num_scheduled_tokens", None),
        scheduler.long_prefill_token_threshold,
    )
    return Rule(
        method,
        stages,
        num_layers,
        turns_of(config.additional_config),
        config.cache_config.block_size,
        min(step for step in steps if step),
        FrameRule.of(config.model_config.hf_config),
    )


@dataclass(frozen=True)
class Outcome:
    """What becomes of a request's visual tokens."""

    visual: int
    first: int  # row of the first visual token
    method: str = ""
    kept: float = 0.0  # visual tokens per decoder layer, on average
    counts: tuple[int, ...] = ()  # after each pruning layer
    reason: str = ""  # why the request is not pruned, one of REASONS; empty if it is

    @classmethod
    def of(cls, visual: int, first: int, plan: RequestPlan) -> Outcome:
        """Of a plan that prunes; what it keeps whole counts as kept."""
        assert plan.method is not None
        whole = visual - sum(region.schedule.visual for region in plan.regions)
        kept = whole + sum(region.schedule.equal_tokens for region in plan.regions)
        each = zip(*(region.removed for region in plan.regions), strict=True)
        return cls(visual, first, plan.method.name, kept, tuple(visual - sum(removed) for removed in each))


def stages_of(config: Any, method: Method) -> tuple[tuple[int, ...], int]:
    """The pruning layers of ``method``, and how many layers the decoder has.

    Raises:
        SparseSightError: the method cannot be served, or the model has too few layers to prune after.
    """
    check_tower(config, method)
    model = config.model_config
    num_layers = model.hf_text_config.num_hidden_layers
    allowed = prunable(model.hf_config, layer_kinds(model.hf_text_config, num_layers))
    stages = check_method(method, num_layers, allowed)
    check_drafter(config, stages, kv_groups_of(config.additional_config))
    return stages, num_layers


def check_arguments(rule: Rule, request: Any) -> None:
    """Refuse what a request's arguments alone show to be invalid, before its pictures are read.

    Args:
        rule: of the server.
        request: of vLLM's server, before it is rendered.

    Raises:
        SparseSightError: naming the argument and the fix.
    """
    for name in getattr(request, "model_extra", None) or ():
        if str(name).lower().startswith(KEY):
            raise SparseSightError(
                f'{brief(name)} is not an argument of vLLM: write "vllm_xargs": {{"{REQUEST_KEY}": ...}}'
            )
    arguments = getattr(request, "vllm_xargs", None)
    check_names(arguments)
    asked_of(rule.method, rule.stages, arguments)


def outcome_of(rule: Rule, prompt: Any, params: Any) -> Outcome | None:
    """What becomes of a request's visual tokens; None if it has none.

    Args:
        rule: of the server.
        prompt: as vLLM's renderer made it; its ``mm_placeholders`` say where visual tokens are.
        params: sampling parameters.

    Raises:
        SparseSightError: the request names an invalid budget, or one that its pictures cannot meet, or asks for
            log-probabilities of tokens that are dropped.
    """
    asked = rule.budget(params)
    placeholders = prompt.get("mm_placeholders") if isinstance(prompt, Mapping) else None
    places = [place for own in (placeholders or {}).values() for place in own]
    if not places:
        return None
    ids = prompt.get("prompt_token_ids")
    if ids is None:  # as if text followed the pictures
        mask = np.ones(sum(place.get_num_embeds() for place in places) + 1, np.bool_)
        mask[-1] = False
    else:
        mask, ids = visual_mask(places, len(ids)), np.asarray(ids, np.int64)
    visual, first = int(mask.sum()), int(mask.argmax())
    try:
        plan = rule.plan(asked, mask, ids)
    except BudgetError:
        if asked.named:
            raise
        return Outcome(visual, first, reason=UNMET)
    if not plan.regions:
        return Outcome(visual, first, reason=_reason(rule, asked, visual, plan))
    if getattr(params, "prompt_logprobs", None) is not None:
        raise SparseSightError(
            f"prompt_logprobs={params.prompt_logprobs}: dropped visual tokens have none; leave it out, or "
            f'keep every token with {REQUEST_KEY}="none"'
        )
    return Outcome.of(visual, first, plan)


def _reason(rule: Rule, asked: RequestBudget, visual: int, plan: RequestPlan) -> str:
    """Why a request with visual tokens is not pruned."""
    if plan.too_long or plan.rounded:
        return TOO_LONG if plan.too_long else ROUNDED
    method = asked.method
    if method is None or (isinstance(method.retain, float) and method.retain == 1.0):
        return BY_REQUEST if asked.named else BY_SERVER
    schedule = schedule_of(asked, visual, 1, rule.num_layers, rule.stages).schedule
    return NO_TEXT if schedule and schedule.stages[-1].tokens_out < visual else SMALL
