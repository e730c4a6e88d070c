"""What a run tells of its stages, token by token, is what the stages saw and decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import METHODS, Compose, SparseSightError, SparseVLM, SparseVLMPlus, sparsify
from tests.hf.test_invariants import batch, model

MERGING = {
    "sparsevlm": SparseVLM(retain=0.4, layers=(1, 3, 4)),
    "tome": METHODS["tome"](retain=0.4),
    "pooling": METHODS["pooling"](retain=0.4),
    "composed": Compose(METHODS["tome"](retain=0.6), SparseVLM(retain=0.3, layers=(1, 3))),
}


def traced(method: Any, prompt: dict[str, Any]) -> Any:
    with sparsify(model("llava"), method, trace=True) as run, torch.no_grad():
        model("llava")(**prompt)
    return run


@pytest.mark.parametrize("name", MERGING)
def test_record_is_what_the_stages_saw_and_chose(name: str) -> None:
    """Of a padded batch, every sample by itself; with stages that see tokens of earlier merges."""
    run = traced(MERGING[name], batch("llava"))
    assert run.kept
    for i, sample in enumerate(run.report.samples):
        before = None
        for number, (record, step) in enumerate(zip(run.choices(i), run.trace, strict=True)):
            seen, chosen = step.stage, step.selection
            real = seen.visual[i]
            origin = seen.origin[i][real]
            assert len(record.kept) == sample.visual_tokens and record.layer == seen.layer
            assert np.flatnonzero(record.kept).tolist() == sorted(
                origin[chosen.keep[i][real] & (origin >= 0)].tolist()
            )
            assert np.flatnonzero(record.kept).tolist() == run.kept[number][i].tolist()
            # What came is a token by itself, or stands at the centre of those that were merged into it.
            came = np.zeros(sample.visual_tokens, dtype=bool)
            came[origin[origin >= 0]] = True
            assert int((origin < 0).sum()) == (0 if before is None else before.centre.sum())
            came |= False if before is None else before.centre
            assert np.array_equal(came, ~np.isnan(record.score))
            assert sorted(record.score[came]) == sorted(chosen.score[i][real].float().tolist())
            alone = torch.from_numpy(record.score)[origin[origin >= 0]]
            assert torch.equal(alone, chosen.score[i][real][origin >= 0].float())
            # As many merged tokens go on as there are rows of them.
            left = step.rows.origin[i][step.rows.visual[i]]
            assert record.centre.sum() == int((left < 0).sum()) and not (record.kept & record.merged).any()
            assert np.isin(record.into[record.merged], np.flatnonzero(record.centre)).all()
            before = record


def test_what_went_into_which_merged_token() -> None:
    """A merged token of pooling is the mean of the tokens that are told to be in it."""
    run = traced(MERGING["pooling"], batch("llava", (0,)))
    (record,), (step,) = run.choices(), run.trace
    tokens = step.stage.hidden[0][step.stage.column[0]]
    merge, recycled = step.selection.merge, step.selection.recycled
    for number, centre in enumerate(recycled[0][merge.centre[0]].tolist()):
        mean = tokens[torch.from_numpy(record.into == centre)].mean(0)
        assert torch.allclose(merge.tokens[0][number], mean, atol=1e-5)


@pytest.mark.parametrize(
    "method", [SparseVLMPlus(retain=0.4), Compose(METHODS["tome"](retain=0.6), SparseVLM(0.3, (1, 3)))]
)
def test_raters_are_columns_of_the_input(method: Any) -> None:
    prompt = batch("llava")
    run = traced(method, prompt)
    image = model("llava").config.image_token_id
    for i in range(len(run.report.samples)):
        chosen, visual = run.raters(i), prompt["input_ids"][i] == image
        assert chosen.shape == prompt["input_ids"][i].shape
        step = run.trace[-1].stage
        told = step.text_column[i][step.rater[i]]  # rows of what was left
        assert int(chosen.sum()) == len(told)
        if visual.any():
            assert chosen.any() and chosen.nonzero().min() > visual.nonzero().max()
            assert prompt["attention_mask"][i].bool()[chosen].all()


def test_a_method_without_raters_has_none() -> None:
    prompt = batch("llava", (0,))
    assert not traced(METHODS["dart"](retain=0.4), prompt).raters().any()


def test_before_the_model_has_run_and_without_such_a_sample() -> None:
    with sparsify(model("llava"), retain=0.4) as run:
        for ask in (run.choices, run.raters):
            with pytest.raises(SparseSightError, match="has not run yet"):
                ask()
        with torch.no_grad():
            model("llava")(**batch("llava", (0,)))
        with pytest.raises(SparseSightError, match="sample=1: the last prefill had 1"):
            run.choices(1)
    assert len(run.choices()) == len(run.layers)
