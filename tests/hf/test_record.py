"""What a run tells of its stages, token by token, is what the stages saw and decided."""

from __future__ import annotations

from typing import Any

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
def test_choices_are_those_of_the_stages(name: str) -> None:
    """Of a padded batch, every sample by itself; with stages that see tokens of earlier merges."""
    run = traced(MERGING[name], batch("llava"))
    assert run.kept
    for i in range(len(run.report.samples)):
        for number, (choice, step) in enumerate(zip(run.choices(i), run.trace, strict=True)):
            real = step.stage.visual[i]
            origin = step.stage.origin[i][real]
            assert torch.equal(choice.merged, origin < 0)
            assert torch.equal(choice.token[origin >= 0], origin[origin >= 0])
            assert torch.equal(choice.score, step.selection.score[i][real].float())
            assert torch.equal(choice.kept, step.selection.keep[i][real])
            assert torch.equal(choice.token[choice.kept & ~choice.merged], run.kept[number][i])
            # As many merged tokens came out as there are centres, and each centre is a token that came.
            centres = choice.into[choice.into >= 0].unique()
            assert len(centres) == step.selection.counts.merged[i]
            assert torch.isin(centres, choice.token).all()
            assert int((choice.into >= 0).sum()) == step.selection.counts.recycled[i]
            assert not (choice.kept & (choice.into >= 0)).any()


def test_what_went_into_which_merged_token() -> None:
    """A merged token of pooling is the mean of the tokens that are told to be in it."""
    run = traced(MERGING["pooling"], batch("llava", (0,)))
    (choice,), (step,) = run.choices(), run.trace
    tokens = step.stage.hidden[0][step.stage.column[0]]
    merge, recycled = step.selection.merge, step.selection.recycled
    for number, centre in enumerate(recycled[0][merge.centre[0]].tolist()):
        mean = tokens[choice.into == centre].mean(0)
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
    assert len(run.choices()) == 3
