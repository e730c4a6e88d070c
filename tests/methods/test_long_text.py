"""Only the text rows that judge are scored: what that takes grows with them, not with the length of the text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sparsesight import METHODS, SparseVLMPlus, ops, sparsify
from sparsesight.core.host_count import most_rows
from sparsesight.methods import make_method
from sparsesight.profiling.op_counter import Operations
from sparsesight.random_models import Shape, random_llava
from tests.methods.stages import Sample, build

USE_ATTENTION = [name for name, kind in METHODS.items() if kind.requires_attention]
SHORT, LONG, RATERS = 100, 1600, 5


def scored(name: str, text: int, raters: int, lazy: bool = True) -> tuple[Any, Any]:
    method = make_method(name, retain=20)
    sample = Sample.random(3, 2, 40, text)
    sample.rater = torch.arange(text) % (text // raters) == 1
    assert sample.rater.sum() == raters
    _, stage = build(method, [sample])
    if lazy and stage.at is not None:
        column = stage.text_column

        def mask(index: torch.Tensor) -> torch.Tensor:
            return ops.causal_rows(column.gather(1, index), sample.length, 0)

        stage = dataclasses.replace(stage, at=dataclasses.replace(stage.at, mask=mask))
    with Operations() as found:
        score = method.score(stage)
    return found.total, score


@pytest.mark.parametrize("name", USE_ATTENTION)
def test_new_tensors_do_not_grow_with_text_that_does_not_judge(name: str) -> None:
    """What is left to grow are the keys, and lists of which text there is."""
    short, long = (scored(name, text, RATERS)[0].made for text in (SHORT, LONG))
    assert long < 1.05 * LONG / SHORT * short
    quadratic = LONG * (LONG + 42) * 4  # one head's attention, or one weight, for all of the text
    assert long < quadratic / 4


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm+"])
def test_new_tensors_grow_with_the_raters(name: str) -> None:
    few, many = (scored(name, LONG, raters)[0].made for raters in (RATERS, 20 * RATERS))
    assert 5 < many / few < 21


@pytest.mark.parametrize("name", USE_ATTENTION)
def test_scores_are_those_of_all_rows(name: str) -> None:
    """In a batch of long and short text, with the mask as a tensor of all rows, and with a bound that is too high."""
    method = make_method(name, retain=10)
    samples = [Sample.random(seed, seed, 20 + seed, text) for seed, text in ((1, 5), (2, 90), (3, 33))]
    samples[1].rater = torch.arange(90) == 4
    _, stage = build(method, samples)
    expected = method.score(dataclasses.replace(stage, rater_count=stage.rater.shape[1]))
    torch.testing.assert_close(method.score(stage), expected, rtol=1e-5, atol=1e-7)
    if name == "sparsevlm":
        by_hand = stage.attention.received(stage.rater).mean(1)
        torch.testing.assert_close(by_hand, expected, rtol=1e-5, atol=1e-7)


def test_rows_that_are_picked_twice() -> None:
    """A selection of a selection, with a mask per head, an additive one and one that is made when asked for."""
    _, stage = build(
        make_method("sparsevlm"), [Sample.random(1, 2, 9, 12), Sample.random(2, 3, 7, 8)], poison=1.0
    )
    all_rows = stage.attention.mean_attention()
    seen = stage.attention.allowed()
    heads = torch.zeros(2, 4, *seen.shape[2:]).masked_fill(~seen, torch.finfo(torch.float32).min)
    masks: list[Any] = [seen, heads, lambda index: ops.gather_rows(seen[:, 0], index)[:, None]]
    wanted = torch.zeros_like(stage.text)
    wanted[:, [-1, -3, -6]] = True
    for mask in masks:
        attention = dataclasses.replace(stage.attention, mask=mask)
        picked, valid = attention.only(wanted)
        assert valid.shape == (2, 3) and valid.all()
        torch.testing.assert_close(picked.mean_attention(), all_rows[:, [-6, -3, -1]])
        again, _ = picked.only(torch.tensor([[False, True, False]] * 2), 1)
        torch.testing.assert_close(again.mean_attention(), all_rows[:, [-3]])
        torch.testing.assert_close(again.rope_weight(), stage.attention.rope_weight()[:, [-3]])


def test_short_text_on_a_device_is_not_counted() -> None:
    assert most_rows(torch.ones(2, 128, dtype=torch.bool, device="meta")) is None
    assert most_rows(torch.tensor([[True, False, True], [False, False, True]])).read() == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm+"])
@pytest.mark.parametrize("raters", [1, 100, 150, 299])
def test_no_bit_depends_on_when_a_count_arrives(name: str, raters: int) -> None:
    """A device that tells the number of raters in time has those scored, otherwise all text: the same scores."""
    method = make_method(name, retain=10)
    samples = [Sample.random(seed, 4, 30 + seed, text) for seed, text in ((1, 300), (2, 299))]
    for sample in samples:
        sample.rater = torch.arange(len(sample.rater)) < raters
    samples[1].rater[0] = False
    samples[1].rater[-1] = True
    _, stage = build(method, samples)
    scores = []
    for arrived in (True, False):
        count = most_rows(stage.rater)
        assert count is not None
        count._copy, count._event = torch.tensor(raters), Event(arrived)  # type: ignore[assignment]
        read = count.read()
        assert read == (None if not arrived else 128 * -(-raters // 128))
        # On a device an unknown number means all rows; a CPU would count them.
        shown = dataclasses.replace(stage, rater_count=stage.rater.shape[1] if read is None else read)
        scores.append(method.score(shown))
    assert torch.equal(*scores)


class Event:
    """Of a device: what it marks has come to pass, or not; nobody may wait for it."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed

    def query(self) -> bool:
        return self.passed


class First(SparseVLMPlus):
    """The first text tokens judge."""

    def select_raters(self, visual: Any, text: Any, visual_mask: Any, text_mask: Any) -> Any:
        return text_mask & (text_mask.cumsum(1) <= RATERS)


def test_a_prefill_scores_its_raters_alone() -> None:
    """The whole way through the transformers integration, its own mask of all rows included."""
    model, prompt = random_llava(
        Shape.parse("layers=4,hidden=32,ffn=48,text=800,heads=4", visual=100), torch.float32, "cpu"
    )
    with torch.no_grad(), sparsify(model, First(retain=(40,), layers=(1,))) as run:
        with run.count_operations() as found:
            model(**prompt, use_cache=True, logits_to_keep=1)
        assert int(run.raters().sum()) == RATERS
    assert (
        found.parts["scoring"].made < 800 * 900
    )  # bytes: not one number for each pair of a text token and a key
