"""Refuses what the plugin does not support before a model is loaded; each message is one sentence with the fix."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from ..errors import SparseSightError, UnsupportedModelError
from ..method_names import DEFAULT
from ..methods import Method
from .families import MODELS
from .names import VERSIONS

# The operation that writes keys; it reads its slots from the forward context, which a recorded graph does not.
KV_WRITE = "vllm::unified_kv_cache_update"

DRAFTERS = ("", "ngram", "draft_model", "eagle", "eagle3")

_UNQUANTISED = ("auto", "float16", "bfloat16", "float32", "half", "float")

# What is refused of vLLM's config: a condition, and the message.
_REFUSED: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (
        lambda c: getattr(c.model_config, "runner_type", "generate") != "generate",
        "pooling would take in the rows of dropped tokens, which are zero: use --runner generate",
    ),
    (
        lambda c: str(getattr(c.cache_config, "cache_dtype", "auto")) not in _UNQUANTISED,
        "methods read keys of earlier steps from the cache, which --kv-cache-dtype would round: leave it out",
    ),
    (
        lambda c: c.parallel_config.pipeline_parallel_size > 1,
        "pipeline parallelism passes on tensors of the unpruned length: use --pipeline-parallel-size 1",
    ),
    (
        lambda c: c.parallel_config.data_parallel_size > 1 and c.model_config.is_moe,
        "data parallelism of a mixture of experts pads steps across ranks: use --data-parallel-size 1 and run one "
        "server for each replica",
    ),
    (
        lambda c: (
            max(
                getattr(c.parallel_config, "decode_context_parallel_size", 1),
                getattr(c.parallel_config, "prefill_context_parallel_size", 1),
            )
            > 1
        ),
        "context parallelism spreads the keys of a prompt over ranks: use --decode-context-parallel-size 1 and "
        "--prefill-context-parallel-size 1",
    ),
    (
        lambda c: c.parallel_config.use_ubatching,
        "microbatching splits the metadata of a step: leave out --enable-dbo and --ubatch-size",
    ),
    (
        lambda c: c.kv_transfer_config is not None,
        "KV connectors move blocks as if every layer held every token: leave out --kv-transfer-config and "
        "--kv-offloading-size",
    ),
    (
        lambda c: getattr(getattr(c.model_config, "multimodal_config", None), "mm_encoder_only", False),
        "a server that only encodes pictures has no language model to prune in: leave sparsesight out of its "
        "--additional-config and give it to the server that takes the embeddings",
    ),
    (
        lambda c: str(getattr(c.model_config, "model_impl", "auto")) not in ("auto", "vllm"),
        "only vLLM's own models are pruned: leave out --model-impl",
    ),
    (
        lambda c: set(getattr(c.model_config, "model_class_overrides", None) or ()) & set(MODELS),
        "another class would stand in the place of the one that prunes: leave out --model-class-overrides",
    ),
    (
        lambda c: getattr(getattr(c, "aux_output_config", None), "enable_return_routed_experts", False),
        "dropped tokens pass no expert: leave out --enable-return-routed-experts",
    ),
    (
        lambda c: getattr(c.cache_config, "prefix_match_unit", None) not in (None, c.cache_config.block_size),
        "cached prefixes of pruned prompts end with blocks: leave out --prefix-match-unit",
    ),
    (
        lambda c: getattr(getattr(c.compilation_config, "mode", None), "name", "") == "STOCK_TORCH_COMPILE",
        "stock torch.compile runs a recorded model also where a step prunes: leave out mode of --compilation-config",
    ),
    (
        lambda c: _drafter(c) not in DRAFTERS,
        f"of methods that draft tokens it is tested with {', '.join(DRAFTERS[1:])}: use a --speculative-config with "
        "one of these, or leave it out",
    ),
    (
        lambda c: c.use_v2_model_runner and _drafter(c) not in DRAFTERS[:2],
        "models that draft tokens are tested with vLLM's V1 model runner: set VLLM_USE_V2_MODEL_RUNNER=0",
    ),
    (
        lambda c: getattr(c.cache_config, "kv_sharing_fast_prefill", False),
        "fast prefill with shared keys shortens the last layers itself: leave out --kv-sharing-fast-prefill",
    ),
    (
        lambda c: getattr(getattr(c.model_config, "multimodal_config", None), "video_pruning_rate", None),
        "video pruning renumbers the positions of what it leaves of a clip: leave out --video-pruning-rate",
    ),
    (
        lambda c: c.use_v2_model_runner and _graphs(c) == "FULL",
        "vLLM's V2 model runner replays CUDA graphs of whole steps also where a step prunes: pass "
        '--compilation-config \'{"cudagraph_mode": "FULL_AND_PIECEWISE"}\'',
    ),
    (
        lambda c: _graphs(c) and getattr(c.compilation_config, "use_inductor_graph_partition", False),
        "Inductor's graph partition records KV cache writes with the slots of an unpruned step: leave out "
        "use_inductor_graph_partition of --compilation-config",
    ),
    (
        lambda c: _graphs(c) and KV_WRITE not in (c.compilation_config.splitting_ops or (KV_WRITE,)),
        "CUDA graphs would record KV cache writes with the slots of an unpruned step: leave out splitting_ops of "
        f"--compilation-config, or add {KV_WRITE!r}",
    ),
    (
        lambda c: os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"),
        "the Rust front end passes the checks of requests by: set VLLM_USE_RUST_FRONTEND=0",
    ),
    (
        lambda c: _graphs(c) and os.environ.get("VLLM_USE_BREAKABLE_CUDAGRAPH", "0") not in ("", "0"),
        "breakable CUDA graphs replay a dense step: set VLLM_USE_BREAKABLE_CUDAGRAPH=0",
    ),
    (
        lambda c: getattr(c.model_config, "enable_prompt_embeds", False),
        "embeddings given as a prompt cannot be distinguished from visual tokens: leave out --enable-prompt-embeds",
    ),
)

# What is refused of it besides where the method reads the vision tower.
_UNREAD: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (
        lambda c: getattr(c, "ec_transfer_config", None) is not None,
        "embeddings that another server has encoded hold nothing of it: leave out --ec-transfer-config",
    ),
    (
        lambda c: getattr(c.model_config.multimodal_config, "skip_mm_profiling", False),
        "whether it can be read is seen when vLLM encodes its largest pictures at the start: leave out "
        "--skip-mm-profiling",
    ),
    (
        lambda c: getattr(c.model_config.multimodal_config, "language_model_only", False),
        "none is loaded: leave out --language-model-only",
    ),
    (
        lambda c: "LlavaOnevisionForConditionalGeneration" in (c.model_config.architectures or ()),
        "LLaVA-OneVision interpolates large pictures and pools clips after its projector, so that a visual token is of "
        f"no patch of the tower: use a method that reads no vision tower, such as {DEFAULT!r}",
    ),
    (
        lambda c: (
            c.parallel_config.tensor_parallel_size > 1
            and getattr(c.model_config.multimodal_config, "mm_encoder_tp_mode", "") == "data"
        ),
        "every rank would encode other pictures: leave out --mm-encoder-tp-mode",
    ),
    (
        lambda c: getattr(c.model_config.multimodal_config, "enable_mm_embeds", False),
        "a picture given by its embeddings never passes the tower: leave out --enable-mm-embeds",
    ),
    (
        lambda c: getattr(c.compilation_config, "compile_mm_encoder", False),
        "a compiled tower shows no attention: leave out compile_mm_encoder of --compilation-config",
    ),
    (
        lambda c: getattr(c.compilation_config, "cudagraph_mm_encoder", False),
        "a recorded tower shows no attention: leave out cudagraph_mm_encoder of --compilation-config",
    ),
)


def check_version(version: str) -> None:
    """Refuse a vLLM that the plugin was not tested with.

    Raises:
        SparseSightError: naming the version and the ones that work.
    """
    found = re.match(r"\d+\.\d+(?=$|[.+\-a-z])", version)
    if found is None or found[0] not in VERSIONS:
        raise SparseSightError(
            f"vLLM {version}: sparsesight works with {', '.join(f'{v}.*' for v in VERSIONS)}; install one of these, "
            'or leave "sparsesight" out of --additional-config'
        )


def check_config(config: Any) -> None:
    """Refuse what cannot work in a ``VllmConfig``; it may also be any object with the same attributes.

    Raises:
        UnsupportedModelError: the model's architecture is not supported.
        SparseSightError: another part of it is not.
    """
    names = list(getattr(config.model_config, "architectures", None) or ())
    if not set(names) & set(MODELS):
        raise UnsupportedModelError(
            f"architecture {', '.join(map(repr, names))}: inside vLLM sparsesight works with "
            f"{', '.join(MODELS)}; use sparsesight.sparsify on transformers for other models"
        )
    for refused, sentence in _REFUSED:
        if refused(config):
            raise SparseSightError(f"sparsesight in vLLM: {sentence}")


def check_tower(config: Any, method: Method) -> None:
    """Refuse what keeps a method from reading the vision tower, if it does.

    Raises:
        SparseSightError: naming the method and the fix.
    """
    for refused, sentence in _UNREAD if method.requires_vision else ():
        if refused(config):
            raise SparseSightError(f"method {str(method)!r} reads the vision tower: {sentence}")


def check_scheduler(config: Any) -> None:
    """Refuse a scheduler that knows nothing of regions.

    Raises:
        SparseSightError: naming it and the fix.
    """
    given = config.scheduler_config.scheduler_cls
    if given is not None and not str(given).startswith("sparsesight."):
        raise SparseSightError(
            f"sparsesight has a scheduler of its own, but --scheduler-cls is {given!r}: leave it out"
        )


def check_kv_groups(config: Any) -> None:
    """Refuse what cannot work with blocks for each stage.

    Raises:
        SparseSightError: naming it and the fix.
    """
    scheduler = config.scheduler_config
    if scheduler.disable_hybrid_kv_cache_manager:
        raise SparseSightError(
            "kv_groups: vLLM's hybrid KV cache manager allocates them, and it is off: leave out "
            "--disable-hybrid-kv-cache-manager"
        )


def check_method(method: Method, num_layers: int, allowed: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The pruning layers of a method in a decoder of ``num_layers``; refuses methods that the plugin cannot serve.

    Args:
        allowed: layers after which the model can do with less; by default all but the last.

    Raises:
        SparseSightError: naming the method and the fix.
        BudgetError: as :meth:`Method.stage_layers`.
    """
    name = f"method {str(method)!r}"
    if method.data_dependent:
        raise SparseSightError(
            f"{name} chooses the number of tokens from the data, but vLLM's scheduler must know it in advance: "
            'use fixed counts, such as {"method": "sparsevlm", "retain": 64}'
        )
    if method.requires_text_tower:
        raise SparseSightError(
            f"{name} compares patches with the question in the space of a text tower, which vLLM does not load: use "
            "one that goes by the vision tower alone, such as 'scope', or by the visual tokens, such as 'cdpruner'"
        )
    if method.weights_keys:
        raise SparseSightError(
            f"{name}: proportional=True weights single keys, for which vLLM's attention kernels take no bias: leave it "
            "out"
        )
    if method.positions != "original":
        raise SparseSightError(
            f"{name}: positions={method.positions!r} renumbers tokens, but vLLM goes on counting from the prompt's "
            "length: use positions='original'"
        )
    return method.stage_layers(num_layers, allowed)


def _drafter(config: Any) -> str:
    return str(getattr(config.speculative_config, "method", ""))


def _graphs(config: Any) -> str:
    """The name of the CUDA graph mode, empty where there is none (eager, CPU)."""
    mode = getattr(config.compilation_config, "cudagraph_mode", None)
    name = "" if mode is None or config.model_config.enforce_eager else getattr(mode, "name", str(mode))
    return "" if name == "NONE" else name
