"""The matrix: every family, on eager and sdpa, against the invariants (design section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sparsesight import sparsify
from sparsesight.hf.families import visual_ids
from tests.hf.families import ALL
from tests.hf.families.base import CLIPS, SAMPLES, Family, Sample
from tests.hf.families.oracle import blinded

NEW = 3


@pytest.fixture(scope="module", params=ALL, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def models(family: Family) -> Iterator[dict[str, Any]]:
    yield {attention: family.build(attention) for attention in ("eager", "sdpa")}


def samples(family: Family) -> tuple[Sample, ...]:
    return (*SAMPLES, *(CLIPS if "video" in family.visual else ()))


def generate(model: Any, prompt: Any, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """New tokens [b, t] and their logits [b, t, vocab]."""
    out = model.generate(
        **prompt, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True, **how
    )
    return out.sequences[:, -NEW:], torch.stack(out.logits, 1)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "random"])
def test_batch_equals_alone(family: Family, models: dict[str, Any], attention: str, method: str) -> None:
    if method == "sparsevlm" and not family.recycles:
        pytest.skip("merging is refused")
    model, every = models[attention], samples(family)
    with sparsify(model, method, retain=0.4) as run:
        _, logits = generate(model, family.prompts(every))
        kept = run.kept
        for i, sample in enumerate(every):
            _, own = generate(model, family.prompts([sample]))
            close(logits[i], own[0])
            assert bool(sample.images or sample.videos) == bool(run.kept)
            for stage, alone in zip(kept, run.kept, strict=False):
                assert torch.equal(stage[i], alone[0])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("which", [0, 1, 4, 5])
def test_oracle(family: Family, models: dict[str, Any], attention: str, which: int) -> None:
    if which >= len(samples(family)):
        pytest.skip("no video")
    prompt = family.prompts([samples(family)[which]])
    with sparsify(models[attention], retain=0.4) as run:
        tokens, logits = generate(models[attention], prompt)
    ids = prompt["input_ids"][0]
    visual = torch.isin(ids, torch.tensor(visual_ids(models["eager"].config))).nonzero()[:, 0]
    layers = range(len(models["eager"].get_decoder().layers))
    gone = {}
    for stage, (layer, kept) in enumerate(zip(run.layers, run.kept, strict=True)):
        assert 0 < len(kept[0]) < len(visual)
        missing = torch.ones(len(visual), dtype=torch.bool)
        missing[kept[0]] = False
        until = [*run.layers, layers.stop - 1][stage + 1]
        gone |= dict.fromkeys(range(layer + 1, until + 1), visual[missing])
    with blinded(models["eager"], gone):
        dense_tokens, dense_logits = generate(models["eager"], prompt)
    close(logits, dense_logits)
    assert torch.equal(tokens, dense_tokens)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_keeping_everything_is_the_dense_model(
    family: Family, models: dict[str, Any], attention: str
) -> None:
    model, prompt = models[attention], family.prompts(samples(family))
    tokens, logits = generate(model, prompt)
    with sparsify(model, retain=1.0) as run:
        again, sparse = generate(model, prompt)
    assert torch.equal(logits, sparse) and torch.equal(tokens, again)
    assert run.kept == []
    assert torch.equal(generate(model, prompt)[1], logits), "not restored"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_beam_search(family: Family, models: dict[str, Any], attention: str) -> None:
    model = models[attention]
    how = {"max_new_tokens": NEW, "num_beams": 3, "do_sample": False}
    with sparsify(model, retain=0.4):
        together = model.generate(**family.prompts(SAMPLES), **how)[:, -NEW:]
        alone = [model.generate(**family.prompts([sample]), **how)[:, -NEW:] for sample in SAMPLES]
    assert torch.equal(together, torch.cat(alone))
