"""What is set and refused before an engine starts, and what is refused of requests before they reach it.

vLLM has no hook for either. One function of its front end is wrapped when the plugin is loaded; another one only for a
server that asks for sparsesight.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial, wraps
from typing import Any

import numpy as np

from ..errors import BudgetError, SparseSightError
from ..hf.model_parts import layer_kinds, prunable
from ..methods import Method
from .config import REQUEST_KEY, asked_of, kv_groups_of, logger, method_of, turns_of, with_turns
from .planner import choice_of, schedule_of, visual_mask
from .settings import complete, records_graphs
from .validation import check_config, check_kv_groups, check_method, check_version


def install() -> None:
    """Complete and check an engine's arguments before it is made; for engines without sparsesight nothing differs."""
    module = sys.modules.get("vllm.engine.arg_utils")  # not loaded where there is no front end
    if module is None or hasattr(module.EngineArgs.create_engine_config, "sparsesight"):
        return
    inner = module.EngineArgs.create_engine_config

    @wraps(inner)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        method = method_of(self.additional_config)
        if method is not None:
            check_installed()
            if method.judged_by == "turn":
                self.additional_config = with_turns(self.additional_config, partial(_tokenizer, self))
            added = complete(self, records_graphs())
        config = inner(self, *args, **kwargs)  # from here on, at the latest, vLLM shows what is logged
        if method is not None:
            for setting in added:
                logger.info("sparsesight sets %s=%r: %s", setting.field, setting.value, setting.why)
            check(config, method)
            if kv_groups_of(self.additional_config):
                check_kv_groups(config)
                kind = (
                    "SparseAsyncScheduler" if config.scheduler_config.async_scheduling else "SparseScheduler"
                )
                config.scheduler_config.scheduler_cls = f"sparsesight.vllm.kv_groups.{kind}"
            _validate_requests()
        return config

    create_engine_config.sparsesight = True  # type: ignore[attr-defined]
    module.EngineArgs.create_engine_config = create_engine_config


def _tokenizer(arguments: Any) -> Any:
    """The tokenizer of the model that an engine's arguments name, with its chat template; None if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            arguments.tokenizer or arguments.model,
            revision=arguments.tokenizer_revision or arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
        )
    except Exception as error:  # vLLM says what is wrong with it, if it needs one
        logger.info("sparsesight knows no turns of chats, as no tokenizer loads: %s", error)
        return None


def check(config: Any, method: Method) -> tuple[int, ...]:
    """The pruning layers of ``method`` under a ``VllmConfig``.

    Raises:
        SparseSightError: if any of it cannot work.
    """
    check_installed()
    check_config(config)
    return stages_of(config, method)[0]


def check_installed() -> None:
    """Refuse the vLLM that is running, if it is none that the plugin was tested with.

    Raises:
        SparseSightError: naming the version and the ones that work.
    """
    import vllm

    check_version(vllm.__version__)


def stages_of(config: Any, method: Method) -> tuple[tuple[int, ...], int]:
    """The pruning layers of ``method``, and how many layers the decoder has."""
    model = config.model_config
    num_layers = model.hf_text_config.num_hidden_layers
    allowed = prunable(model.hf_config, layer_kinds(model.hf_text_config, num_layers))
    return check_method(method, num_layers, allowed), num_layers


def _validate_requests() -> None:
    """Refuse a request that asks for what cannot be, as vLLM refuses its own: over HTTP with status 400.

    A server calls ``generate`` before it answers, and what that raises becomes the status; what is raised later, when
    the request is made, comes after the status of a stream. Engines without a server only do the latter.
    """
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor

    process, generate = InputProcessor.process_inputs, AsyncLLM.generate
    if hasattr(process, "sparsesight"):
        return

    @wraps(process)
    def process_inputs(
        self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        _refuse(self.vllm_config, self.renderer, prompt, params)
        return process(self, request_id, prompt, params, *args, **kwargs)

    @wraps(generate)
    def generate_checked(self: Any, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(prompt, Mapping):  # rendered: what a server passes
            _refuse(self.vllm_config, self.renderer, prompt, sampling_params)
        return generate(self, prompt, sampling_params, *args, **kwargs)

    process_inputs.sparsesight = True  # type: ignore[attr-defined]
    InputProcessor.process_inputs = process_inputs
    AsyncLLM.generate = generate_checked


def _refuse(config: Any, renderer: Any, prompt: Any, params: Any) -> None:
    """:func:`check_request`, with vLLM's own error."""
    from vllm.exceptions import VLLMValidationError

    try:
        check_request(config, prompt, params)
    except SparseSightError as error:
        # vLLM has noted that the engine is being sent the pictures, which now never get there.
        cache = renderer.mm_processor_cache
        for items in (prompt.get("mm_hashes") or {}).values() if cache is not None else ():
            for item in items:
                cache.invalidate(item)
        raise VLLMValidationError(str(error), parameter=REQUEST_KEY) from error


def check_request(config: Any, prompt: Any, params: Any) -> None:
    """Refuse a request that names a budget which is none, or which its pictures cannot meet.

    Args:
        config: the ``VllmConfig``.
        prompt: as vLLM's renderer made it; its ``mm_placeholders`` say where visual tokens are.
        params: sampling parameters.

    Raises:
        SparseSightError: saying what is possible.
    """
    method = method_of(config.additional_config)
    if method is None:  # another engine of this process has asked for the check
        return
    extra_args = getattr(params, "extra_args", None)
    placeholders = prompt.get("mm_placeholders") if isinstance(prompt, Mapping) else None
    if not placeholders and not extra_args:
        return
    stages, num_layers = stages_of(config, method)
    asked = asked_of(method, stages, extra_args)
    places = [place for own in (placeholders or {}).values() for place in own]
    ids = prompt.get("prompt_token_ids") if places else None
    try:
        if ids is None or (turns := turns_of(config.additional_config)) is None:
            visual = sum(place.get_num_embeds() for place in places)
            schedule = schedule_of(
                asked, visual, 1, num_layers, stages
            ).schedule  # as if text followed the pictures
        else:
            mask = visual_mask(places, len(ids))
            schedule = choice_of(asked, mask, np.asarray(ids), turns, num_layers, stages).schedule
    except BudgetError:
        if asked.named:
            raise
        return  # the worker keeps every token, and says why
    if schedule is None:
        return
    if getattr(params, "prompt_logprobs", None) is not None:
        raise SparseSightError(
            f"prompt_logprobs={params.prompt_logprobs}: visual tokens that are dropped have none; leave it out, or "
            f'ask for every token with {REQUEST_KEY}="none"'
        )
