"""Completes and checks an engine's arguments before it is made.

vLLM has no hook for this: one function of its front end is wrapped when the plugin is loaded. What is wrapped of a
server's requests (:mod:`.admission`) is wrapped only once an engine asks for sparsesight.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

from ..methods import Method
from . import admission
from .config import kv_groups_of, logger, method_of, with_turns
from .requests import stages_of
from .settings import Setting, complete, records_graphs
from .step_size import longest_region
from .validation import check_config, check_kv_groups, check_scheduler, check_version


def install() -> None:
    """Complete and check an engine's arguments before it is made; for engines without sparsesight nothing differs."""
    from vllm.engine.arg_utils import EngineArgs  # plugins may be loaded before it

    inner = EngineArgs.create_engine_config
    if hasattr(inner, "sparsesight"):
        return

    @wraps(inner)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        method = method_of(self.additional_config)
        if method is not None:
            check_installed()
            if method.judged_by == "turn":
                self.additional_config = with_turns(self.additional_config, partial(_tokenizer, self))
            added = complete(self, records_graphs())
            left_open = self.max_num_batched_tokens is None
        config = inner(self, *args, **kwargs)  # from here on, at the latest, vLLM shows what is logged
        if method is not None:
            check_config(config)
            needed = longest_region(config) if left_open else 0
            if needed > config.scheduler_config.max_num_batched_tokens:
                self.max_num_batched_tokens = needed
                config = inner(self, *args, **kwargs)
                why = "the largest picture and its question come in one step"
                added.append(
                    Setting("max_num_batched_tokens", needed, ("--max-num-batched-tokens", str(needed)), why)
                )
            for setting in added:
                logger.info("sparsesight sets %s=%r: %s", setting.field, setting.value, setting.why)
            stages_of(config, method)
            if kv_groups_of(self.additional_config):
                check_kv_groups(config)
            check_scheduler(config)
            kind = "SparseAsyncScheduler" if config.scheduler_config.async_scheduling else "SparseScheduler"
            config.scheduler_config.scheduler_cls = f"sparsesight.vllm.scheduler.{kind}"
            admission.install()
        return config

    create_engine_config.sparsesight = True  # type: ignore[attr-defined]
    EngineArgs.create_engine_config = create_engine_config


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
