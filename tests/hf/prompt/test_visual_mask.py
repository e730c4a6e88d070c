"""Prompts nobody thought of, budgets and options drawn with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesight import METHODS, BudgetError, sparsify
from tests.hf import tiny
from tests.hf.oracle import oracle_logits
from tests.hf.test_installed import plain_state
from tests.hf.test_invariants import model

words = st.sampled_from([w for w in tiny.WORDS if w not in tiny.SPECIAL])
picture = st.builds(tiny.picture, st.integers(0, 99), st.integers(7, 150), st.integers(7, 150))
part = st.one_of(st.lists(words, min_size=0, max_size=6).map(" ".join), picture)
prompt = st.lists(part, min_size=0, max_size=5).map(
    lambda parts: (
        " ".join(p if isinstance(p, str) else "<image>" for p in parts),
        [p for p in parts if not isinstance(p, str)],
    )
)
budget = st.one_of(
    st.floats(0.3, 1.0), st.integers(8, 70), st.just((40, 20, 10)), st.just((64, 3)), st.integers(1, 3)
)
options = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.sampled_from([(0,), (1, 4), (0, 1, 2), (2, 3, 5)]),
        "positions": st.sampled_from(["original", "compact"]),
        "always_drop": st.booleans(),
    },
)


def near(a: torch.Tensor, b: torch.Tensor) -> None:
    """Long prompts of many pictures add up in another order than their batch: closer than any wrong key would be."""
    torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


def check_prompts(
    family: str, attention: str, samples: Any, side: str, method: str, retain: Any, how: dict[str, Any]
) -> None:
    built, tools = model(family, attention), tiny.processor(family)
    tools.tokenizer.padding_side = side
    if max(len(text.split()) for text, _ in samples) < 2:
        samples = [*samples, tiny.SAMPLES[2]]  # nothing at all is no prompt, a single token a decoding step
    inputs = tiny.inputs(tools, samples)
    real = inputs["attention_mask"].bool()
    if method == "dart" and side == "left":
        # The L1 norm of a rotated key depends on where it is, and a plain forward counts padding.
        inputs["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
    before = built(**inputs).logits
    try:
        run = sparsify(built, method, retain=retain, **how)
        with run:
            logits = built(**inputs).logits
            kept, report, layers = run.kept, run.report, run.layers
            merges = any(stage.merged.any() for i in range(len(samples)) for stage in run.choices(i))
            alone = []
            for i, sample in enumerate(samples):
                own = (
                    tiny.inputs(tools, [sample]) if real[i].sum() > 1 else None
                )  # one token passes for a decoding step
                alone.append(None if own is None else (built(**own).logits[0], run.kept))
    except BudgetError as error:
        assert "retain" in str(error) or "layers" in str(error)
        assert torch.equal(built(**inputs).logits, before)
        return
    finally:
        assert not plain_state(built)
    assert torch.equal(built(**inputs).logits[real], before[real])
    for i in range(len(samples)):
        if alone[i] is None:
            continue
        ids = inputs["input_ids"][i][real[i]]
        text = ids != built.config.image_token_id
        near(logits[i][real[i]][text], alone[i][0][text])
        visual = int((~text).sum())
        assert report.samples[i].visual_tokens == visual
        for s, stage in enumerate(kept):
            mine = stage[i]
            assert torch.equal(mine, mine.unique()) and (not len(mine) or 0 <= mine[0] <= mine[-1] < visual)
            if alone[i][1]:
                assert torch.equal(mine, alone[i][1][s][0])
            else:
                assert len(mine) == visual  # it ran dense, alone and in the batch
    if family == "llava" and kept and not merges and how.get("positions") != "compact":
        i = next(i for i in range(len(samples)) if len(kept[0][i]))
        own = tiny.inputs(tools, [samples[i]])
        ids = own["input_ids"][0]
        expected = oracle_logits(
            model(family), ids, [stage[i] for stage in kept], layers, pixel_values=own["pixel_values"]
        )
        text = ids != built.config.image_token_id
        near(logits[i][real[i]][text], expected[text])


anything = given(
    family=st.sampled_from(tiny.FAMILIES),
    attention=st.sampled_from(["eager", "sdpa"]),
    samples=st.lists(prompt, min_size=1, max_size=3),
    side=st.sampled_from(["left", "right"]),
    method=st.sampled_from(sorted(METHODS)),
    retain=budget,
    how=options,
)
quietly = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}


@torch.no_grad()
@settings(max_examples=8, **quietly)
@anything
def test_any_prompt(**drawn: Any) -> None:
    """Right in a batch and alone, with budget and options drawn too, or refused with the budget's sentence."""
    check_prompts(**drawn)


@pytest.mark.slow
@torch.no_grad()
@settings(max_examples=600, **quietly)
@anything
def test_any_prompt_for_long(**drawn: Any) -> None:
    check_prompts(**drawn)
