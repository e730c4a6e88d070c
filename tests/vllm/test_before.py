"""Methods before the language model: every layer has the gap, and no blocks are allocated for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.vllm

from sparsesight import CDPruner, DivPrune, SparseVLMPlus  # noqa: E402
from sparsesight.methods import METHODS, Compose, Method  # noqa: E402

from . import test_families as of_families  # noqa: E402
from .engines import (  # noqa: E402
    answers,
    by_transformers,
    every_stage,
    generated,
    prompt,
    pruner,
    questions,
    same,
    sampling,
    serve,
)
from .test_kv_groups import SIZE, blocks, managers, needed, scheduler  # noqa: E402
from .test_prefix_caching import pictures  # noqa: E402
from .tiny import FAMILIES, Tiny, spoken  # noqa: E402

METHOD = DivPrune(64)
BEFORE = [
    METHOD,
    DivPrune(0.1, per_frame=True),
    *(METHODS[name](64) for name in ("cdpruner", "mmtok", "vidcom2", "tome", "pooling", "uniform")),
    METHODS["random"](64, (-1,)),
]
# Blocks for one and a half unpruned prompts.
DEFAULTS = {
    "enable_prefix_caching": True,
    "block_size": SIZE,
    "max_model_len": 800,
    "num_gpu_blocks_override": 40,
}
UNPRUNED = {"sparsesight_retain": "none"}


def test_every_method_before_the_first_layer(opened: Any) -> None:
    # A question longer than a block, so that what follows the picture is found with it.
    asked = [(picture, " ".join([question] * 6)) for picture, question in questions()[1:3]]
    llm, prompts = opened(METHOD, **DEFAULTS), [prompt(*x) for x in asked]
    dense = answers(llm, prompts, sampling(extra_args=UNPRUNED))
    same(dense, by_transformers(None, asked), 1e-3)
    for number, method in enumerate(BEFORE):
        serve(llm, method)
        found = answers(llm, prompts, sampling())
        assert pruner(llm).tally.pruned == 2 * (number + 1)
        same(found, by_transformers(method, asked), 1e-3)
        assert found[0][1] != dense[0][1], method
        same(answers(llm, prompts, sampling()), found, 1e-4)  # with keys from the cache
        assert pruner(llm).tally.pruned == 2 * (number + 1)


@pytest.mark.parametrize(
    "method",
    [Compose(CDPruner(0.5), SparseVLMPlus((150, 80, 60))), METHODS["halves"](64)],
    ids=["composed", "halves"],
)
def test_stages_before_and_inside(opened: Any, method: Method) -> None:
    llm = opened(method, **DEFAULTS)
    asked = [(picture, question) for picture, (_, question) in zip(pictures(), questions(), strict=False)]
    prompts: list[Any] = [prompt(*x) for x in asked]
    mixed = [prompts[0], {"prompt": "USER: what color is it? ASSISTANT:"}, *prompts[1:], prompts[0]]
    params = [sampling(extra_args=x) for x in (None, None, None, None, UNPRUNED)]
    found = answers(llm, mixed, params)
    assert pruner(llm).stages[0] == -1 and pruner(llm).tally.pruned == 3
    same([found[i] for i in (0, 2, 3)], by_transformers(method, asked), 1e-3)
    same(found[4:], by_transformers(None, asked[:1]), 1e-3)
    same([answers(llm, [one], sampling())[0] for one in prompts], [found[i] for i in (0, 2, 3)], 1e-4)


def test_no_blocks_are_allocated_for_the_gap(opened: Any) -> None:
    method = METHODS["halves"](64)
    prompts = [prompt(*x) for x in questions()]
    llm = opened(method, **{**DEFAULTS, "num_gpu_blocks_override": 34})
    (held,), _ = blocks(llm, prompts[0])
    before, first, second = needed(prompts[0], method)
    assert held == first and second < first < before / 3
    for i, one in enumerate(prompts):
        llm.llm_engine.add_request(f"{i}", one, sampling())
    together = 0
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()
        together = max(together, len(scheduler(llm).running))
    assert 1.5 * before < 34 < len(prompts) * first + 12 and together == len(prompts) == 6
    (manager,) = managers(llm)
    assert not manager.regions and not manager.req_to_blocks


KEEP = {"halves": (9, 5), "vidcom2": (9,), "uniform": (9,), "pooling": (9,)}
ROTATION = {
    "llava_next": "halves",
    "llava_onevision": "vidcom2",
    "qwen2_vl": "pooling",
    "qwen2_5_vl": "uniform",
    "qwen3_vl": "halves",  # after the last layer that adds picture features
    "internvl": "divprune",
}


OFTEN = ("qwen2_vl",)  # with clips, and positions on three axes


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(x, id=x.name, marks=() if x.name in OFTEN else pytest.mark.slow)
        for x in FAMILIES
        if x.name in ROTATION
    ],
)
def test_families(family: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    kind = METHODS[ROTATION[family.name]]
    method = kind(KEEP.get(kind.name, (9,)), per_frame=kind is DivPrune)
    path = family.write(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(path)
    samples, params = family.samples(), sampling(allowed_token_ids=spoken(path))
    expected = [
        generated(model, family.inputs(processor, x), method, block=of_families.BLOCK) for x in samples
    ]
    with of_families.opened(method, path, {"image": 2, **({"video": 1} if family.video else {})}) as llm:
        prompts = [family.prompt(x) for x in samples]
        with every_stage():  # also pictures of which blocks keep all
            same(answers(llm, prompts, params), expected, 1e-3)
        shortened = pruner(llm).tally.pruned
        assert shortened == len(prompts) - 1  # one is a text
        same([answers(llm, [one], params)[0] for one in prompts], expected, 1e-3)
