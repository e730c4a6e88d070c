"""Methods that read the vision tower: what they read goes with a picture's embeddings, wherever those are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.vllm

from sparsesight import SCOPE, FasterVLM, SparseVLMPlus, VisionZip  # noqa: E402
from sparsesight.methods import METHODS, Compose  # noqa: E402
from sparsesight.vllm.tower import with_columns, without_columns  # noqa: E402

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
from .tiny import FAMILIES, Tiny, spoken  # noqa: E402

METHODS_READ = [VisionZip(64), SCOPE(64), FasterVLM(64, per_frame=True), METHODS["holov"](64)]


def model_of(llm: Any) -> Any:
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()


def test_what_was_read_is_kept_with_the_picture(opened: Any) -> None:
    """The tower runs once for a picture, whatever is asked about it; every answer is that of transformers."""
    asked = [(picture, " ".join([question] * 6)) for picture, question in questions()[:4]]
    prompts: list[Any] = [prompt(*x) for x in asked]
    llm = opened(VisionZip(64), enable_prefix_caching=True, block_size=32, max_model_len=800)
    encoded: list[int] = []
    model_of(llm).tower.attention.register_forward_pre_hook(lambda *_: encoded.append(1))
    for number, method in enumerate(METHODS_READ):
        serve(llm, method)
        mixed = [prompts[0], {"prompt": "USER: what color is it? ASSISTANT:"}, *prompts[1:]]
        unpruned = {"sparsesight_retain": "none"}
        params = [sampling(extra_args=x) for x in (None, None, None, unpruned, None)]
        found = answers(llm, mixed, params)
        same([found[i] for i in (0, 2, 4)], by_transformers(method, [asked[i] for i in (0, 1, 3)]), 1e-3)
        same([found[3]], by_transformers(None, [asked[2]]), 1e-3)
        assert pruner(llm).tally.pruned == 3 * (number + 1)
        same(answers(llm, mixed, params), found, 1e-4)  # with keys from the cache
        assert pruner(llm).tally.pruned == 3 * (number + 1)
    pictures = len({x.tobytes() for x, _ in asked})
    assert 0 < len(encoded) <= pictures


def test_stages_inside_the_decoder_read_it_too(opened: Any) -> None:
    method = Compose(SCOPE(0.5), SparseVLMPlus((150, 80, 60)))
    asked = questions()[:3]
    llm = opened(method, enable_prefix_caching=True, block_size=32, max_model_len=800)
    same(answers(llm, [prompt(*x) for x in asked], sampling()), by_transformers(method, asked), 1e-3)


ROTATION = {
    "llava_next": VisionZip((9,)),
    "qwen2_vl": METHODS["fastvid"]((9,)),
    "qwen2_5_vl": FasterVLM((9,)),
    "internvl": VisionZip((9,)),
    "internvl_chat": SCOPE((9,)),
}
OFTEN = ("qwen2_5_vl",)  # with windows, and several patches to a token


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

    method = ROTATION[family.name]
    path = family.write(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(path)
    samples, params = family.samples(), sampling(allowed_token_ids=spoken(path))
    inputs = [family.inputs(processor, x) for x in samples]
    expected = [generated(model, x, method, block=of_families.BLOCK) for x in inputs]
    served = family.served(path) if family.served else path
    with of_families.opened(method, served, {"image": 2, **({"video": 1} if family.video else {})}) as llm:
        prompts = [family.prompt(x) for x in samples]
        with every_stage():  # also pictures of which blocks keep all
            same(answers(llm, prompts, params), expected, 1e-3)
        assert pruner(llm).tally.pruned == len(prompts) - 1  # one is a text
        same([answers(llm, [one], params)[0] for one in prompts], expected, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_is_kept(dtype: torch.dtype) -> None:
    rows, read = torch.randn(5, 8).to(dtype), torch.randn(5, 3)
    read[1, 0], read[2, 1] = float("-inf"), 1e-40
    joined = with_columns(rows, read)
    assert joined.dtype == dtype
    # As the runner and its caches do: kept, cut, put together with others.
    alone, found = without_columns(torch.cat((joined[:2].clone(), joined[2:])), 3)
    assert torch.equal(alone, rows) and torch.equal(found.view(torch.int32), read.view(torch.int32))
