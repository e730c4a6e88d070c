"""What is refused, and that it says what to do instead."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from sparsesight import (
    CDPruner,
    FastV,
    Halves,
    SparseSightError,
    SparseVLM,
    SparseVLMPlus,
    UnsupportedModelError,
    VisionZip,
)
from sparsesight.methods import METHODS, Method
from sparsesight.vllm.validation import (
    check_config,
    check_kv_groups,
    check_method,
    check_scheduler,
    check_tower,
    check_version,
)


class Graphs(Enum):
    """As vLLM's modes are named."""

    NONE = 0
    PIECEWISE = 1
    FULL = 2
    FULL_DECODE_ONLY = 3
    FULL_AND_PIECEWISE = 4


def config(**changes: Any) -> Any:
    """A config that works, but for ``changes``: ``part__field=value``."""
    made = SimpleNamespace(
        model_config=SimpleNamespace(
            architectures=["LlavaForConditionalGeneration"],
            enforce_eager=False,
            is_moe=False,
            multimodal_config=SimpleNamespace(video_pruning_rate=None),
        ),
        cache_config=SimpleNamespace(cache_dtype="auto", kv_sharing_fast_prefill=False, block_size=16),
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=1,
            tensor_parallel_size=1,
            data_parallel_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            use_ubatching=False,
        ),
        compilation_config=SimpleNamespace(
            cudagraph_mode=Graphs.PIECEWISE,
            use_inductor_graph_partition=False,
            splitting_ops=["vllm::unified_attention_with_output", "vllm::unified_kv_cache_update"],
        ),
        kv_transfer_config=None,
        speculative_config=None,
        lora_config=None,
        use_v2_model_runner=False,
    )
    for path, value in changes.items():
        *parts, field = path.split("__")
        at = made
        for part in parts:
            at = getattr(at, part)
        setattr(at, field, value)
    return made


def test_an_ordinary_config_is_fine() -> None:
    check_config(config())
    check_config(config(parallel_config__tensor_parallel_size=2))
    check_config(config(use_v2_model_runner=True))
    check_config(config(speculative_config=SimpleNamespace(method="ngram"), lora_config=object()))
    check_config(config(speculative_config=SimpleNamespace(method="eagle3")))
    check_config(config(parallel_config__data_parallel_size=2))
    check_config(config(compilation_config__cudagraph_mode=None))
    check_config(config(model_config__model_impl="vllm", cache_config__prefix_match_unit=16))
    check_config(config(model_config__model_class_overrides={"MyModel": "my:Model"}))
    check_config(config(ec_transfer_config=object(), model_config__multimodal_config__skip_mm_profiling=True))
    for mode in (Graphs.FULL_DECODE_ONLY, Graphs.FULL_AND_PIECEWISE):
        check_config(config(compilation_config__cudagraph_mode=mode))
        check_config(config(compilation_config__cudagraph_mode=mode, use_v2_model_runner=True))
    check_config(config(compilation_config__cudagraph_mode=Graphs.FULL))
    nothing_recorded = {
        "compilation_config__cudagraph_mode": Graphs.NONE,
        "compilation_config__splitting_ops": [],
    }
    check_config(config(compilation_config__use_inductor_graph_partition=True, **nothing_recorded))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cache_config__cache_dtype": "fp8"}, "--kv-cache-dtype"),
        ({"parallel_config__pipeline_parallel_size": 2}, "--pipeline-parallel-size 1"),
        ({"parallel_config__data_parallel_size": 2, "model_config__is_moe": True}, "--data-parallel-size 1"),
        ({"parallel_config__decode_context_parallel_size": 2}, "--decode-context-parallel-size 1"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "--prefill-context-parallel-size 1"),
        ({"parallel_config__use_ubatching": True}, "--enable-dbo"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"model_config__multimodal_config__mm_encoder_only": True}, "the server that takes the embeddings"),
        ({"model_config__model_impl": "transformers"}, "--model-impl"),
        (
            {"model_config__model_class_overrides": {"LlavaForConditionalGeneration": "a:B"}},
            "--model-class-overrides",
        ),
        (
            {"aux_output_config": SimpleNamespace(enable_return_routed_experts=True)},
            "--enable-return-routed-experts",
        ),
        ({"cache_config__prefix_match_unit": 8}, "--prefix-match-unit"),
        ({"compilation_config__mode": SimpleNamespace(name="STOCK_TORCH_COMPILE")}, "leave out mode"),
        ({"speculative_config": SimpleNamespace(method="medusa")}, "ngram, draft_model, eagle, eagle3"),
        (
            {"speculative_config": SimpleNamespace(method="eagle3"), "use_v2_model_runner": True},
            "VLLM_USE_V2_MODEL_RUNNER=0",
        ),
        ({"cache_config__kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        ({"model_config__multimodal_config__video_pruning_rate": 0.5}, "--video-pruning-rate"),
        (
            {"compilation_config__cudagraph_mode": Graphs.FULL, "use_v2_model_runner": True},
            "FULL_AND_PIECEWISE",
        ),
        ({"compilation_config__use_inductor_graph_partition": True}, "use_inductor_graph_partition"),
        (
            {"compilation_config__splitting_ops": ["vllm::unified_attention_with_output"]},
            "vllm::unified_kv_cache_update",
        ),
        ({"model_config__enable_prompt_embeds": True}, "--enable-prompt-embeds"),
        ({"model_config__runner_type": "pooling"}, "--runner generate"),
    ],
)
def test_what_cannot_work_is_refused_with_the_flag_that_fixes_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SparseSightError) as error:
        check_config(config(**changes))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_front_end_without_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(SparseSightError, match="VLLM_USE_RUST_FRONTEND=0"):
        check_config(config())


def test_breakable_graphs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")
    with pytest.raises(SparseSightError, match="VLLM_USE_BREAKABLE_CUDAGRAPH=0"):
        check_config(config())
    check_config(config(compilation_config__cudagraph_mode=Graphs.NONE))  # there are none
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "0")
    check_config(config())


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'Gemma3ForConditionalGeneration'.*LlavaFor"):
        check_config(config(model_config__architectures=["Gemma3ForConditionalGeneration"]))


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32.1rc1", "0.32", "0.33.0"])
def test_versions_that_work(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.0", "0.34.0", "0.3.2", "0.320.0", "1.0.32", "dev"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(SparseSightError, match=r"0\.32\.\*, 0\.33\.\*"):
        check_version(version)


def test_methods_that_work_and_their_layers() -> None:
    assert check_method(SparseVLMPlus(64), 8) == SparseVLMPlus(64).stage_layers(8)
    assert check_method(SparseVLM(64), 8) == SparseVLM(64).stage_layers(8)
    assert check_method(FastV(0.5, (1,)), 8) == (1,)
    assert check_method(SparseVLMPlus(64, per_frame=True), 8) == SparseVLMPlus(64).stage_layers(8)
    assert check_method(METHODS["divprune"](), 8) == (-1,) and check_method(METHODS["halves"](), 8) == (-1, 5)
    # of a model that adds features to later layers
    assert check_method(METHODS["halves"](), 8, (2, 3, 4)) == (2, 4)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (SparseVLM(adaptive=True), "must know it in advance"),
        (CDPruner(64, guide="text-tower"), "text tower"),
        (SparseVLMPlus(64, positions="compact"), "positions='original'"),
        (Halves(64, proportional=True), "proportional=True weights single keys"),
    ],
)
def test_methods_that_do_not(method: Method, words: str) -> None:
    with pytest.raises(SparseSightError) as error:
        check_method(method, 8)
    assert words in str(error.value) and repr(str(method)) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_config__architectures": ["LlavaOnevisionForConditionalGeneration"]},
            "interpolates large pictures",
        ),
        (
            {
                "parallel_config__tensor_parallel_size": 2,
                "model_config__multimodal_config__mm_encoder_tp_mode": "data",
            },
            "--mm-encoder-tp-mode",
        ),
        ({"ec_transfer_config": object()}, "--ec-transfer-config"),
        ({"model_config__multimodal_config__skip_mm_profiling": True}, "--skip-mm-profiling"),
        ({"model_config__multimodal_config__language_model_only": True}, "--language-model-only"),
        ({"model_config__multimodal_config__enable_mm_embeds": True}, "--enable-mm-embeds"),
        ({"compilation_config__compile_mm_encoder": True}, "compile_mm_encoder"),
        ({"compilation_config__cudagraph_mm_encoder": True}, "cudagraph_mm_encoder"),
    ],
)
def test_where_the_vision_tower_cannot_be_read(changes: dict[str, Any], words: str) -> None:
    check_tower(config(), VisionZip(64))
    check_tower(config(**changes), Halves(64))
    with pytest.raises(SparseSightError, match=r"method 'visionzip.*reads the vision tower") as error:
        check_tower(config(**changes), VisionZip(64))
    assert words in str(error.value)


def test_every_method_is_served_or_refused_in_words() -> None:
    served = set()
    for name, kind in METHODS.items():
        try:
            check_method(kind(), 32)
        except SparseSightError:
            continue
        served.add(name)
    assert served == METHODS.keys()


@pytest.mark.vllm
def test_nobody_imports_vllm_by_importing_sparsesight() -> None:
    code = (
        "import sys, sparsesight, sparsesight.vllm.plugin, sparsesight.vllm.config, sparsesight.vllm.validation, "
        "sparsesight.vllm.pruner, sparsesight.vllm.runner; sparsesight.sparsify; "
        "assert not any(m.split('.')[0] == 'vllm' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_blocks_for_each_stage_do_not_work_with() -> None:
    def scheduler(off: bool | None, cls: str | None) -> Any:
        return SimpleNamespace(
            scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=off, scheduler_cls=cls)
        )

    check_kv_groups(scheduler(False, None))
    with pytest.raises(SparseSightError, match="--disable-hybrid-kv-cache-manager"):
        check_kv_groups(scheduler(True, None))
    for own in (None, "sparsesight.vllm.scheduler.SparseScheduler"):  # also of a config that was made before
        check_scheduler(scheduler(False, own))
    with pytest.raises(SparseSightError, match=r"'my\.Scheduler'"):
        check_scheduler(scheduler(False, "my.Scheduler"))
