"""Engines of the bundled model, what they are asked, and what transformers answers to the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
import torch

from sparsesight import bundled, sparsify
from sparsesight.core.budget import Schedule
from sparsesight.core.whole_blocks import in_whole_blocks
from sparsesight.methods import Compose, Method

TOKENS = 8
BLOCK = 32  # tokens of a block of keys, the fewest that vLLM's kernels for CPUs take


def engine(method: Method | None, **arguments: Any) -> Any:
    from vllm import LLM

    given: dict[str, Any] = {
        "model": str(bundled.MODEL_PATH),
        "dtype": "float32",
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "block_size": BLOCK,
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 8192,
        "limit_mm_per_prompt": {"image": 1},
        "kv_cache_memory_bytes": 1 << 28,
        "seed": 0,
        "additional_config": {} if method is None else {"sparsesight": method.to_dict()},
    }
    return LLM(**{**given, **arguments})


def close(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()


def pruner(llm: Any) -> Any:
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    return runner.get_model().pruner


def serve(llm: Any, method: Method) -> None:
    """Prune by another method with the same pruning layers, from the next request on."""
    inside, scheduler = pruner(llm), llm.llm_engine.engine_core.engine_core.scheduler
    assert method.stage_layers(inside.num_layers) == inside.stages
    inside.planner = scheduler.planner = replace(inside.planner, method=method)


@contextmanager
def every_stage() -> Iterator[None]:
    """Let regions of which nothing is removed pass all stages, too: they must come out as they were."""
    from sparsesight.vllm import planner

    with pytest.MonkeyPatch.context() as patch:
        planner._planned.cache_clear()
        patch.setattr(planner, "fills_a_block", lambda removed: True)
        yield
    planner._planned.cache_clear()


def questions() -> list[tuple[Any, str]]:
    """Pictures and questions about them, of different lengths."""
    from PIL import Image

    asked = bundled.picture_questions()
    found = []
    for path in bundled.pictures():
        picture = Image.open(path).convert("RGB")
        found += [(picture, entry["question"]) for entry in asked[path.name][:2]]
    return found[:6]


def prompt(picture: Any, question: str) -> dict[str, Any]:
    return {"prompt": f"USER: <image>\n{question} ASSISTANT:", "multi_modal_data": {"image": picture}}


def sampling(tokens: int = TOKENS, **more: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, logprobs=1, **more)


def answers(llm: Any, prompts: list[Any], params: Any) -> list[tuple[list[int], list[float]]]:
    """Tokens and their log-probabilities."""
    found = []
    for request in llm.generate(prompts, params, use_tqdm=False):
        output = request.outputs[0]
        ids = list(output.token_ids)
        found.append((ids, [step[t].logprob for step, t in zip(output.logprobs, ids, strict=True)]))
    return found


def same(
    a: list[tuple[list[int], list[float]]], b: list[tuple[list[int], list[float]]], tolerance: float
) -> None:
    assert [ids for ids, _ in a] == [ids for ids, _ in b]
    for (_, x), (_, y) in zip(a, b, strict=True):
        torch.testing.assert_close(torch.tensor(x), torch.tensor(y), rtol=0, atol=tolerance)


@cache
def loaded() -> tuple[Any, Any]:
    """The bundled model and its processor, for whoever leaves them as they are."""
    return bundled.load()


SAID: dict[tuple[Any, ...], tuple[list[int], list[float]]] = {}


def by_transformers(
    method: Method | None, asked: list[tuple[Any, str]], tokens: int = TOKENS
) -> list[tuple[list[int], list[float]]]:
    """Each answer is worked out once in a process."""
    model, processor = loaded()
    found = []
    for picture, question in asked:
        key = method, picture.tobytes(), question, tokens
        if key not in SAID:
            inputs = processor(text=prompt(picture, question)["prompt"], images=picture, return_tensors="pt")
            SAID[key] = generated(model, inputs, method, tokens=tokens)
        found.append(SAID[key])
    return found


def in_blocks(method: Method, size: int = BLOCK) -> Method:
    """A method with the counts that it has inside vLLM, where each stage removes whole blocks of keys."""

    class InBlocks(type(method)):  # type: ignore[misc]
        def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
            return in_whole_blocks(super().plan(visual, num_layers, layers), size, self.recycled_fraction)

    if isinstance(method, Compose):
        return InBlocks(*method.parts)  # type: ignore[no-any-return]
    made: Method = InBlocks(**{f.name: getattr(method, f.name) for f in fields(method)})
    return made


def generated(
    model: Any,
    inputs: Any,
    method: Method | None,
    processor: Any = None,
    block: int = BLOCK,
    tokens: int = TOKENS,
) -> tuple[list[int], list[float]]:
    """What transformers says at vLLM's counts; with the ``processor``, each picture is judged by its turn."""
    method = None if method is None else in_blocks(method, block)
    with nullcontext() if method is None else sparsify(model, method, processor=processor), torch.no_grad():
        out = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
    ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    logits = torch.cat(out.logits).float().log_softmax(-1)
    return ids, logits[torch.arange(len(ids)), ids].tolist()
