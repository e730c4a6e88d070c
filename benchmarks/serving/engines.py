"""A random LLaVA as a folder that vLLM loads, and engines in this process, so that they take turns on one machine."""

from __future__ import annotations

import os
import random
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsesight.bench import environment
from sparsesight.bundled import MODEL_PATH
from sparsesight.methods import Method
from sparsesight.random_models import Shape, random_llava

IMAGE = 4  # the bundled tokenizer's <image>
WORDS = (5, 100)  # its other tokens, from and to


def prepare(threads: int, kv_gb: int) -> None:
    """Settings that OpenMP and vLLM read when they start; call it before any tensor is made.

    Engines live in this process: both are paused while the other works, and processor time is the engine's.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gb)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def save_random(shape: Shape, folder: Path, dtype: torch.dtype) -> None:
    """Write a random LLaVA of that shape, with the bundled model's tokenizer."""
    from transformers import AutoProcessor

    model: Any = random_llava(shape, dtype, "cpu")[0]
    model.config.image_token_index = IMAGE
    model.save_pretrained(folder)
    processor: Any = AutoProcessor.from_pretrained(MODEL_PATH, local_files_only=True)
    vision = model.config.vision_config
    processor.image_processor.size = {"shortest_edge": vision.image_size}
    processor.image_processor.crop_size = {"height": vision.image_size, "width": vision.image_size}
    processor.patch_size = vision.patch_size
    processor.save_pretrained(folder)


def pictured(shape: Shape, count: int) -> list[dict[str, Any]]:
    """Prompts of exactly that shape, each with another picture and other words."""
    from PIL import Image

    noise, choose = np.random.default_rng(0), random.Random(0)
    prompts = []
    for _ in range(count):
        before, after = _words(choose, shape.before), _words(choose, shape.text - shape.before)
        picture = Image.fromarray(noise.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        prompts.append({"prompt_token_ids": [*before, IMAGE, *after], "multi_modal_data": {"image": picture}})
    return prompts


def worded(length: int, count: int) -> list[dict[str, Any]]:
    """Prompts of words alone."""
    choose = random.Random(0)
    return [{"prompt_token_ids": _words(choose, length)} for _ in range(count)]


def _words(choose: random.Random, count: int) -> list[int]:
    return [choose.randrange(*WORDS) for _ in range(count)]


def open_engine(model: Path, method: Method | None, dtype: torch.dtype, **arguments: Any) -> Any:
    """An engine in this process; ``method`` None makes it vanilla vLLM."""
    from vllm import LLM

    given: dict[str, Any] = {
        **({"gpu_memory_utilization": 0.45} if torch.cuda.is_available() else {}),  # two engines share a GPU
        "model": str(model),
        "dtype": str(dtype).removeprefix("torch."),
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "limit_mm_per_prompt": {"image": 1},
        "mm_processor_cache_gb": 0,  # every turn prepares its pictures
        "seed": 0,
        "additional_config": {} if method is None else {"sparsesight": method.to_dict()},
    }
    return LLM(**{**given, **arguments})


def sampling(tokens: int, retain: int | None = None) -> Any:
    """Greedy, exactly so many tokens, as ids: these models do not speak."""
    from vllm import SamplingParams

    extra = None if retain is None else {"sparsesight_retain": retain}
    return SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=extra
    )


def pruned(llm: Any) -> int:
    """How many prompts an engine has pruned since it was opened."""
    model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()
    return 0 if model.pruner is None else model.pruner.tally.pruned


def machine(dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """Machine and versions, to stand beside every number."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {**environment(device, dtype), "threads": threads, "vllm": _vllm()}


def _vllm() -> str:
    for name in ("vllm-cpu", "vllm"):
        try:
            return f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    raise SystemExit("vLLM is not installed: run this in the environment of `make test-vllm`")
