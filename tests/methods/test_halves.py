"""Halves, and Narrow: plain references, budgets, and what meaningless relevance leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsesight.core.budget import StageSizes
from sparsesight.errors import BudgetError, SparseSightError
from sparsesight.methods import CDPruner, Compose, Halves, Narrow, parse

from .kept_tokens import check_any_batch, kept
from .stages import Sample, build, normal


def added(
    hidden: np.ndarray, keep: int, favor: np.ndarray | None = None, favored: int = 0, bandwidth: float = 1.0
) -> list[int]:
    """One by one, what the chosen say least about, in plain loops; the first ones as they are favored."""
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    squared = ((unit[:, None] - unit) ** 2).sum(-1)
    kernel = np.exp(-squared / (2 * bandwidth * squared.mean()))
    chosen: list[int] = []
    while len(chosen) < keep:
        rest = [i for i in range(len(hidden)) if i not in chosen]

        def worth(i: int) -> float:
            weight = favor[i] if favor is not None and len(chosen) < favored else 1.0
            if not chosen:
                return weight * kernel[i, i]
            cross = kernel[i, chosen]
            return weight * (kernel[i, i] - cross @ np.linalg.inv(kernel[np.ix_(chosen, chosen)]) @ cross)

        chosen.append(max(rest, key=worth))
    return chosen


def favor_of(sample: Sample) -> np.ndarray:
    hidden = sample.hidden.double().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    alike = unit[sample.at_visual] @ unit[sample.at_text].mean(0)
    return np.exp(2 * (alike - alike.mean()) / alike.std())


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_in_plain_loops(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 7)
    sample.hidden = normal(seed + 70, sample.length, 24)
    hidden = sample.hidden[sample.at_visual].double().numpy()
    favor = favor_of(sample)

    def by_question(favored: int, bandwidth: float = 1.0) -> list[list[int]]:
        return [sorted(added(hidden, 12, favor, favored, bandwidth))]

    assert kept(Halves((12, 5)), sample) == by_question(6)
    assert kept(Halves((12, 5), asked=0.25), sample) == by_question(3)
    assert kept(Halves((12, 5), asked=1.0), sample) == by_question(12)
    assert kept(Halves((12, 5), bandwidth=0.2), sample) == by_question(6, 0.2)
    by_difference = [sorted(added(hidden, 5))]
    assert kept(Halves((12, 5)), sample, index=1) == by_difference
    assert kept(Narrow((5,)), sample) == by_difference
    assert kept(Halves((5, 5), asked=0.0), sample) == by_difference


@pytest.mark.parametrize("asked", [0.5, 1.0])
def test_a_question_equally_like_all_tokens_favors_none(asked: float) -> None:
    sample = Sample.random(1, 2, 20, 3)
    sample.hidden = normal(5, sample.length, 8)
    sample.hidden[:, 0] = 0
    sample.hidden[sample.at_text] = torch.eye(8)[0]
    hidden = sample.hidden[sample.at_visual].double().numpy()
    assert kept(Halves((6, 3), asked=asked), sample) == [sorted(added(hidden, 6))]


def test_a_question_without_a_say_leaves_difference() -> None:
    """Five textures; all the question's similarity is to one of them: of each other one there is still a token."""
    sample = Sample.random(0, 2, 60, 3)
    sample.hidden = 0.15 * normal(3, sample.length, 8)
    sample.hidden[2:62] += torch.eye(8)[torch.arange(60) // 12]
    sample.hidden[62:] += torch.eye(8)[3]
    textures = [i // 12 for i in kept(Halves((10, 3)), sample)[0]]
    assert set(textures) == {0, 1, 2, 3, 4} and textures.count(3) >= 4


def test_the_counts_follow_from_the_budget() -> None:
    schedule = Halves(64).plan(576, 32, (-1, 20))
    first, second = (stage.keep for stage in schedule.stages)
    assert first == round(64 / (20 / 32 + 12 / 32 / 4)) == 89
    assert second == 22 and abs(schedule.equal_tokens - 64) <= 0.5
    assert Halves().stage_layers(8) == (-1, 5)
    assert Halves(1.0).plan(576, 32, (-1, 15)).stages == ()
    # Nearly all: the first stage keeps everything, and the second meets the budget.
    generous = Halves(500).plan(576, 32, (-1, 15))
    assert generous.stages[0].keep == 576 and abs(generous.equal_tokens - 500) <= 0.5
    assert Halves(64, share=1.0).plan(576, 32, (-1, 15)).entering == (64,) * 32
    with pytest.raises(BudgetError, match="cannot be met"):
        Halves(20, layers=(7, 15)).plan(576, 32, (7, 15))


@pytest.mark.parametrize("retain", [8, 64, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("layers", [(-1, 15), (1, 9), (-1,), (-1, 9, 20)])
def test_every_budget_is_met(retain: int | float, layers: tuple[int, ...]) -> None:
    target = retain if isinstance(retain, int) else retain * 576
    if layers[0] > 0 and target < 100:
        return
    assert abs(Halves(retain, layers).plan(576, 32, layers).equal_tokens - target) <= 1


def test_any_method_before_the_decoder_can_be_narrowed() -> None:
    method = parse("cdpruner(retain=90) > narrow(retain=64)")
    assert method == Compose(CDPruner(90), Narrow(64))
    layers = method.stage_layers(32)
    assert layers == (-1, 20)
    entering = method.plan(576, 32, layers).entering
    assert entering[0] == 90 and entering[20] == 90 and entering[21] == entering[31] < 64
    assert abs(method.plan(576, 32, layers).equal_tokens - 64) <= 1


def test_a_smaller_budget_narrows_earlier() -> None:
    assert Narrow().with_budget(320, 576, 32) == Narrow(320, (13,))  # 32 * (320 / 576 - 1/4) / (3/4) = 13.04
    assert Narrow().with_budget(520, 576, 32).stage_layers(32) == (20,)
    assert Narrow().with_budget(64, 576, 32).stage_layers(32) == (0,)
    assert Narrow(0.4).stage_layers(32) == (6,) and Narrow(0.9).stage_layers(32) == (20,)
    assert Narrow(0.1).stage_layers(32, (2, 4, 9)) == (2,)
    assert Narrow().with_budget((9,), 576, 32) == Narrow((9,))


@pytest.mark.parametrize("option", [{"asked": -0.1}, {"asked": 1.5}, {"share": 0.0}, {"share": 2}])
def test_shares_are_checked(option: dict[str, float]) -> None:
    with pytest.raises(SparseSightError, match=rf"{next(iter(option))}=.*: a share"):
        Halves(**option)  # type: ignore[arg-type]


@pytest.mark.parametrize("bandwidth", [0, 1e9, True])
def test_the_bandwidth_is_checked(bandwidth: float) -> None:
    with pytest.raises(SparseSightError, match=r"bandwidth=.*: a number from 0.01 to 100"):
        Halves(bandwidth=bandwidth)


@pytest.mark.parametrize(
    "method", [Halves(0.4), Halves(7), Halves(0.4, (3, 9)), Halves(0.3, asked=0.0), Narrow(0.7)], ids=str
)
@pytest.mark.parametrize("seed", range(3))
def test_any_batch(method: Halves | Narrow, seed: int) -> None:
    check_any_batch(method, seed)


def test_overhead() -> None:
    """Similarity to the question, once; mean distance, kernel and Cholesky factor at each stage."""
    sizes = StageSizes(
        index=0, tokens_in=576, keep=106, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=4096
    )
    difference = 576 * 4096 + sum(576 * 4096 + step * 576 for step in range(1, 107))
    assert Halves().overhead(sizes) == (576 + 60) * 4096 + difference
    assert Halves(asked=0.0).overhead(sizes) == Narrow().overhead(sizes) == difference


def test_pictures_of_scores_show_what_is_asked_for() -> None:
    sample = Sample.random(2, 4, 30, 7)
    hidden = sample.hidden.double().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    similar = torch.from_numpy(unit[sample.at_visual] @ unit[sample.at_text].mean(0)).float()
    method = Halves((12, 5))
    _, first = build(method, [sample])
    chosen = method.select(first)
    torch.testing.assert_close(chosen.score[0], similar)
    assert chosen.meaning == ("similarity to the question", "half by the question, half for variety")
    assert (
        Halves((12, 5), asked=0.25).select(first).meaning.kept == "25% by the question, the rest for variety"
    )
    assert Halves((12, 5), asked=1.0).select(first).meaning.kept == "by the question and for variety"
    _, second = build(method, [sample], index=1)
    found = method.select(second)
    assert found.meaning == Halves((5, 5), asked=0.0).select(first).meaning == method.meaning
    assert set(found.score[0].topk(5).indices.tolist()) == set(found.keep[0].nonzero()[:, 0].tolist())


@pytest.mark.parametrize("method", [Halves(8), Halves(8, asked=0), Narrow(0.6)], ids=str)
def test_scores_for_variety_show_no_order_of_what_is_dropped(method: Halves | Narrow) -> None:
    samples = [Sample.random(3, 2, 40, 5), Sample.random(4, 1, 25, 3)]
    index = 1 if method == Halves(8) else 0
    _, stage = build(method, samples, index=index)
    selection = method.select(stage)
    for score, keep, visual in zip(selection.score, selection.keep, stage.visual, strict=True):
        dropped = score[visual & ~keep].unique()
        assert len(dropped) == 1 and (score[keep] > dropped).all()
