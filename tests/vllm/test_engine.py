"""The plugin inside vLLM, on the bundled model: what it answers, against vanilla vLLM and against transformers."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight import FastV, Random, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.methods import Method
from sparsesight.vllm.stats import Tally

from .engines import (
    answers,
    by_transformers,
    engine,
    every_stage,
    generated,
    loaded,
    prompt,
    pruner,
    questions,
    same,
    sampling,
)

pytestmark = pytest.mark.vllm

LONGER = {"text_config": {"max_position_embeddings": 2048}}  # than the bundled model was trained for
# All four are in test_families.py; here, those with stages elsewhere.
METHODS = [
    SparseVLMPlus(64),
    pytest.param(SparseVLM(64), marks=pytest.mark.slow),
    pytest.param(Random(64), marks=pytest.mark.slow),
    FastV(0.25),
]


@pytest.mark.parametrize(
    ("arguments", "method", "words"),
    [
        ({"kv_cache_dtype": "fp8"}, SparseVLMPlus(64), "--kv-cache-dtype"),
        (
            {"hf_overrides": {"architectures": ["LlavaNextVideoForConditionalGeneration"]}},
            SparseVLMPlus(64),
            "LlavaNextVideo",
        ),
        ({"max_num_batched_tokens": 512}, SparseVLM(adaptive=True), "in advance"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], method: Method, words: str) -> None:
    with pytest.raises(SparseSightError, match=words):
        engine(method, **arguments)


def test_without_an_entry_nothing_differs_and_counts_of_everything_are_vanilla(opened: Any) -> None:
    asked = questions()[:4]
    prompts = [prompt(*x) for x in asked]
    llm = opened(None)
    assert pruner(llm) is None
    dense = answers(llm, prompts, sampling())
    same(dense, by_transformers(None, asked), 1e-3)
    llm = opened(SparseVLMPlus(64))
    everything = sampling(extra_args={"sparsesight_retain": [576, 576, 576]})
    with every_stage():
        same(answers(llm, prompts, everything), dense, 1e-5)
    assert pruner(llm).tally.pruned == len(prompts)  # gather and scatter ran
    full = answers(llm, prompts, everything)
    assert pruner(llm).tally.pruned == len(prompts)  # and now nobody prunes
    same(full, dense, 1e-5)
    # A request may ask for a dense answer, or for another budget, in one batch with others.
    kinds = [None, "none", 1.0, [200, 100, 50]]
    params = [
        sampling(extra_args=None if kinds[i % 4] is None else {"sparsesight_retain": kinds[i % 4]})
        for i in range(len(prompts))
    ]
    mixed = answers(llm, prompts, params)
    for i, one in enumerate(mixed):
        same([one], answers(llm, [prompts[i]], params[i]), 1e-4)
        if kinds[i % 4] in ("none", 1.0):
            same([one], [dense[i]], 1e-4)


@pytest.mark.slow
def test_a_server_that_keeps_everything_is_vanilla(opened: Any) -> None:
    asked = questions()
    llm = opened(SparseVLMPlus((576, 576, 576)))
    same(answers(llm, [prompt(*x) for x in asked], sampling()), by_transformers(None, asked), 1e-3)
    assert not pruner(llm).tally.pruned
    with every_stage():
        same(answers(llm, [prompt(*x) for x in asked], sampling()), by_transformers(None, asked), 1e-3)
    assert pruner(llm).tally.pruned == len(asked)


def staggered(llm: Any, prompts: list[Any]) -> list[tuple[list[int], list[float]]]:
    """Answers to prompts that arrive one by one, while others are being answered."""
    core = llm.llm_engine
    done: dict[str, Any] = {}
    waiting = list(enumerate(prompts))
    step = 0
    while waiting or core.has_unfinished_requests():
        if waiting and step % 2 == 0:
            i, one = waiting.pop(0)
            core.add_request(str(i), one, sampling())
        for output in core.step():
            if output.finished:
                done[output.request_id] = output.outputs[0]
        step += 1
    found = []
    for i in range(len(prompts)):
        output = next(v for k, v in done.items() if k.split("-")[0] == str(i))
        ids = list(output.token_ids)
        found.append((ids, [s[t].logprob for s, t in zip(output.logprobs, ids, strict=True)]))
    return found


@pytest.mark.parametrize(
    "count", [3, pytest.param(6, marks=pytest.mark.slow)]
)  # test_runner_v2.py runs the first
def test_staggered_arrivals_with_texts_between(opened: Any, count: int) -> None:
    llm = opened(SparseVLMPlus(64))
    prompts = [prompt(*x) for x in questions()[:count]]
    prompts.insert(2, {"prompt": "USER: what color is it? ASSISTANT:"})
    alone = [answers(llm, [one], sampling())[0] for one in prompts]
    same(staggered(llm, prompts), alone, 1e-4)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_answers_are_those_of_transformers_alone_and_in_a_batch(opened: Any, method: Method) -> None:
    asked = questions()[:4]
    prompts = [prompt(*x) for x in asked]
    llm = opened(method)
    batched = answers(llm, prompts, sampling())
    assert pruner(llm).tally.pruned == len(prompts)
    same(batched, by_transformers(method, asked), 1e-3)
    dense = by_transformers(None, asked)
    changed = max(
        abs(x - y) for (_, a), (_, b) in zip(batched, dense, strict=True) for x, y in zip(a, b, strict=True)
    )
    assert changed > 0.1  # far more than the tolerance: what is compared is pruned
    alone = [answers(llm, [one], sampling())[0] for one in prompts]
    same(batched, alone, 1e-4)


def test_pictures_that_are_longer_than_a_step_are_kept_and_counted(opened: Any) -> None:
    asked = questions()[:3]
    prompts = [prompt(*x) for x in asked]
    llm = opened(SparseVLMPlus(64), max_num_batched_tokens=256, max_num_seqs=4, enable_chunked_prefill=True)
    parts = answers(llm, prompts, sampling())
    assert pruner(llm).tally == Tally(too_long=len(prompts))  # of three parts each
    same(parts, by_transformers(None, asked), 1e-3)


# 20 blocks hold one prompt of about 600 tokens and little more: three push each other out, six cannot all have leaked.
FEW: dict[str, Any] = {"block_size": 32, "num_gpu_blocks_override": 61, "max_model_len": 700}


def test_preempted_requests_are_pruned_again_and_answer_the_same(opened: Any) -> None:
    llm = opened(SparseVLMPlus(64), **FEW)
    prompts = [prompt(*x) for x in questions()[:3]]
    alone = [answers(llm, [one], sampling(60))[0] for one in prompts]
    before = pruner(llm).tally.pruned
    together = answers(llm, prompts, sampling(60))
    assert pruner(llm).tally.pruned > before + len(prompts)
    same(together, alone, 1e-4)


def test_blocks_of_aborted_requests_are_used_again(opened: Any) -> None:
    llm = opened(SparseVLMPlus(64), **FEW)
    prompts = [prompt(*x) for x in questions()]
    text = {"prompt": "USER: what color is it? ASSISTANT:"}
    alone = [answers(llm, [one], sampling())[0] for one in (*prompts[:2], text)]
    core = llm.llm_engine
    for i, one in enumerate(prompts):
        core.add_request(f"gone{i}", one, sampling())
        core.step()
        core.step()
        core.abort_request([f"gone{i}"])
    assert not core.has_unfinished_requests()
    same([answers(llm, [one], sampling())[0] for one in (*prompts[:2], text)], alone, 1e-6)


def two(method: Method, kv_groups: bool = False) -> dict[str, Any]:
    """Arguments of an engine for two pictures."""
    more: dict[str, Any] = {
        "limit_mm_per_prompt": {"image": 2},
        "max_model_len": 1300,
        "hf_overrides": LONGER,
    }
    return {**more, "additional_config": {"sparsesight": {**method.to_dict(), "kv_groups": kv_groups}}}


def test_two_pictures_in_one_prompt(opened: Any) -> None:
    method = SparseVLMPlus(128)
    pictures = [picture for picture, _ in questions()[::2]][:2]
    text = "USER: <image>\n<image>\nWhat color is the circle? ASSISTANT:"
    llm = opened(method, **two(method))
    found = answers(llm, [{"prompt": text, "multi_modal_data": {"image": pictures}}], sampling())
    assert pruner(llm).tally.pruned == 1
    model, processor = loaded()
    inputs = processor(text=text, images=pictures, return_tensors="pt")
    same(found, [generated(model, inputs, method)], 1e-3)


@pytest.mark.parametrize("kv_groups", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_turn_of_a_chat_judges_its_own_picture(opened: Any, kv_groups: bool) -> None:
    """A chat sent whole, as stateless clients do: the same as in transformers, which equals it turn by turn."""
    method = SparseVLMPlus(128)
    pictures = [picture for picture, _ in questions()[::2]][:2]
    text = (
        "USER: <image>\nWhat color is the circle? ASSISTANT: red "
        "USER: <image>\nHow many cards are there? ASSISTANT:"
    )
    llm = opened(method, **two(method, kv_groups))
    found = answers(llm, [{"prompt": text, "multi_modal_data": {"image": pictures}}], sampling())
    assert pruner(llm).tally.pruned == 1
    model, processor = loaded()
    inputs = processor(text=text, images=pictures, return_tensors="pt")
    same(found, [generated(model, inputs, method, processor)], 1e-3)
    whole = generated(model, inputs, method)  # all text after the last picture judges both
    assert whole[1] != pytest.approx(found[0][1], abs=1e-3)


@pytest.mark.parametrize("kv_groups", [pytest.param(False, marks=pytest.mark.slow), True])
def test_pictures_that_cannot_meet_the_servers_budget_keep_it_after_every_stage(
    opened: Any, kv_groups: bool
) -> None:
    from vllm.exceptions import VLLMValidationError

    method = SparseVLMPlus(100, (1, 3, 5))
    pictures = [picture for picture, _ in questions()[::2]][:2]
    text = "USER: <image>\n<image>\nWhat color is the circle? ASSISTANT:"
    both = {"prompt": text, "multi_modal_data": {"image": pictures}}
    llm = opened(method, **two(method, kv_groups))
    found = answers(llm, [both, prompt(*questions()[0])], sampling())
    assert pruner(llm).tally == Tally(pruned=2, lifted=1)
    model, processor = loaded()
    inputs = processor(text=text, images=pictures, return_tensors="pt")
    same(found[:1], [generated(model, inputs, SparseVLMPlus((100, 100, 100), (1, 3, 5)))], 1e-3)
    same(found[1:], by_transformers(method, questions()[:1]), 1e-3)
    with pytest.raises(VLLMValidationError, match=r"retain=100 of 1152 visual tokens cannot be met"):
        llm.generate([both], sampling(extra_args={"sparsesight_retain": 100}), use_tqdm=False)


def test_a_request_that_cannot_be_is_refused_before_the_engine(opened: Any) -> None:
    from vllm.exceptions import VLLMValidationError

    method = SparseVLMPlus(100, (1, 3, 5))
    llm = opened(method, **two(method, True))  # that of the test before
    one = prompt(*questions()[0])
    with pytest.raises(VLLMValidationError, match="sparsesight_retain=-3"):
        llm.generate([one], sampling(extra_args={"sparsesight_retain": -3}), use_tqdm=False)
    answers(llm, [one], sampling())  # the refusal has left no trace: the same picture is answered
    deep = sampling(extra_args={"sparsesight_retain": "1"})  # the number would be taken for true
    with pytest.raises(VLLMValidationError, match=r"retain=1 of 576 visual tokens cannot be met"):
        llm.generate([one], deep, use_tqdm=False)
    answers(llm, [one], sampling())
    assert pruner(llm).tally == Tally(pruned=2)


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_steps_beside_pruning_ones(
    opened: Any, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and, in the slow case, generated code: which step is compiled is decided before either."""
    asked = questions()[:4]
    prompts: list[Any] = [prompt(*x) for x in asked]
    text = {"prompt": "USER: what color is it? ASSISTANT:"}
    model, processor = loaded()
    inputs = processor(text=text["prompt"], return_tensors="pt")
    expected = [generated(model, inputs, None), *by_transformers(SparseVLMPlus(64), asked)]
    monkeypatch.setenv("VLLM_CPU_CI_ENV", str(int(not kernels)))
    llm = opened(SparseVLMPlus(64), enforce_eager=False)
    assert llm.llm_engine.vllm_config.compilation_config.mode.name != "NONE"
    answers(llm, [text], sampling())
    # The decoder is compiled by now: layers are called by their names only in steps that are not.
    ours = pruner(llm)
    first, begin = ours.decoder.layers[0], ours.begin
    forward = first.forward
    pruning: list[bool] = []
    steps: list[int] = []

    def called(*given: Any) -> Any:
        pruning.append(ours.active is not None)
        return forward(*given)

    def begun(step: Any, *given: Any) -> None:
        steps.append(len(step.query))
        begin(step, *given)

    first.forward, ours.begin = called, begun
    compiled = staggered(llm, [text, *prompts])
    same(compiled, expected, 1e-3)
    assert ours.tally.pruned == len(prompts) == len(pruning) and all(pruning)
    assert (
        len(steps) > 2 * len(pruning) and max(steps) > 1
    )  # the others ran compiled, with decoding requests in both
