"""What a handle tells: of this thread's last prefill, in the dtype and on the device that it had."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from sparsesight import sparsify
from tests.hf import tiny


def prompts() -> list[dict[str, Any]]:
    processor = tiny.processor()
    return [tiny.inputs(processor, tiny.SAMPLES[i : i + 1]) for i in (0, 1)]


def told(run: Any) -> tuple[Any, ...]:
    """Everything that depends on the prefill."""
    return (
        run.report.samples[0].visual_tokens,
        run.report.samples[0].text_tokens,
        [len(stage[0]) for stage in run.kept],
        [(stage.layer, stage.kept.sum(), stage.merged.sum()) for stage in run.choices()],
        len(run.raters()),
        [step.stage.visual.shape[1] for step in run.trace],
    )


def in_turn(*steps: tuple[int, Callable[[], None]]) -> None:
    """Run every step in the thread of its number, one after another."""
    errors: list[BaseException] = []
    turn = [threading.Event() for _ in steps]
    done = [threading.Event() for _ in steps]

    def work(number: int) -> None:
        for i, (own, step) in enumerate(steps):
            if own == number:
                turn[i].wait(60)
                try:
                    step()
                except BaseException as error:
                    errors.append(error)
                done[i].set()

    threads = [threading.Thread(target=work, args=(n,)) for n in {own for own, _ in steps}]
    for thread in threads:
        thread.start()
    for ready, over in zip(turn, done, strict=True):
        ready.set()
        over.wait(60)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_each_thread_is_told_of_its_own_prefill_and_others_of_the_last() -> None:
    model, (a, b) = tiny.model(), prompts()
    alone = []
    for prompt in (a, b):
        with sparsify(model, "sparsevlm", retain=0.4, trace=True, timing=True) as run:
            model.generate(**prompt, max_new_tokens=2)
        alone.append(told(run))
    assert alone[0] != alone[1]
    heard: dict[str, Any] = {}
    with sparsify(model, "sparsevlm", retain=0.4, trace=True, timing=True, fast="plain") as run:

        def hear(name: str) -> None:
            heard[name] = (told(run), run._runs.current.latency.prefill, run.fast)

        in_turn(
            (0, lambda: model.generate(**a, max_new_tokens=2)),
            (1, lambda: model.generate(**b, max_new_tokens=2)),
            (0, lambda: hear("first")),
            (1, lambda: hear("second")),
            (2, lambda: hear("neither")),
        )
        hear("main")
    assert heard["first"][0] == alone[0]
    assert heard["second"][0] == heard["neither"][0] == heard["main"][0] == alone[1]
    assert all(len(latency) == 1 for _, latency, _ in heard.values())
    assert heard["main"][2] == heard["second"][2] and heard["main"][2].segments


def test_records_go_with_their_threads() -> None:
    model, (a, b) = tiny.model(), prompts()
    records = []
    with sparsify(model, retain=0.4) as run:
        for prompt in (a, b):
            thread = threading.Thread(
                target=lambda: (
                    model.generate(**prompt, max_new_tokens=1),  # noqa: B023
                    records.append(weakref.ref(run._runs.current.last)),
                )
            )
            thread.start()
            thread.join()
        gc.collect()
        assert records[0]() is None and records[1]() is run._runs.current.last


def test_sections_and_operations_are_of_the_thread_that_asks() -> None:
    model, (a, b) = tiny.model(), prompts()
    with sparsify(model, retain=0.4) as run:
        inside: dict[str, Any] = {}

        def begin() -> None:
            inside["with"] = run.measure_sections()
            inside["sections"] = inside["with"].__enter__()

        def end() -> None:
            inside["with"].__exit__(None, None, None)

        def other() -> None:
            with run.count_operations() as counted:
                model.generate(**b, max_new_tokens=1)
            inside["other"] = counted.parts

        in_turn(
            (0, begin),
            (1, other),
            (0, lambda: inside.update(before=dict(inside["sections"]))),
            (0, lambda: model.generate(**a, max_new_tokens=1)),
            (0, end),
        )
    assert inside["before"] == {} and inside["sections"]["scoring"] > 0
    assert "scoring" in inside["other"]


def cached_bytes(cache: Any) -> int:
    return sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))


@pytest.mark.parametrize("how", ["half", "bfloat16", "double", "autocast"])
def test_bytes_are_those_of_the_run(how: str) -> None:
    """After a change of dtype and under autocast, with a cache and without."""
    model, (prompt, _) = tiny.model(), prompts()
    dtype = {"half": torch.float16, "double": torch.float64}.get(how, torch.bfloat16)
    with sparsify(model, retain=24) as run, torch.no_grad():
        if how in ("half", "bfloat16", "double"):
            getattr(model, how)()
            prompt["pixel_values"] = prompt["pixel_values"].to(dtype)
        cache = DynamicCache()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            model(**prompt, past_key_values=cache, use_cache=True)
            report = run.report
        assert report.kv_bytes_sparse == cached_bytes(cache)
        if how != "autocast":
            assert cache.layers[0].keys.dtype == dtype
        assert report.kv_bytes_dense == sum(
            x.shape[1] * x.shape[3] * x.element_size() * prompt["input_ids"].numel()
            for layer in cache.layers
            for x in (layer.keys, layer.values)
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            model(**prompt, use_cache=False)
        assert run.report.kv_bytes_sparse == report.kv_bytes_sparse
    model.float()


def test_a_static_cache_counts_the_tokens_in_it() -> None:
    model, (prompt, _) = tiny.model(), prompts()
    model.half()
    prompt["pixel_values"] = prompt["pixel_values"].half()
    n = prompt["input_ids"].shape[1]
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=2 * n)
    with sparsify(model, retain=1.0) as run, torch.no_grad():
        model(**prompt, past_key_values=cache, use_cache=True)
    assert run.report.kv_bytes_dense == run.report.kv_bytes_sparse == cached_bytes(cache) // 2
    model.float()
