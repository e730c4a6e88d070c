"""Metrics against the definitions, worked out in a few lines; joins that refuse."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from sparsesight import SparseSightError
from sparsesight.eval.metrics import AccuracyPlus, AllRight, Mean, MeanF1, Metric, Ratio
from sparsesight.eval.records import Sample
from sparsesight.eval.task import check_items, check_join, task_fingerprint
from tests.eval.made_samples import Made, marked, sample


def test_ratio() -> None:
    given = [(8.0, 10.0), (0.0, 0.0), (4.0, 5.0), (3.0, 9.0)]
    samples = [sample(str(i), model=m, reference=r) for i, (m, r) in enumerate(given)]
    assert number(Ratio(), samples) == pytest.approx(100 * 15 / 24)
    assert number(Ratio(), samples[1:2]) == 0 and Ratio().marks(samples) is None


def yes_no(name: str, part: str, yes: int, truth: int) -> Sample:
    return sample(
        name,
        part=part,
        hit=yes * truth,
        false_alarm=yes * (1 - truth),
        missed=(1 - yes) * truth,
        correct=yes == truth,
    )


def number(metric: Metric, samples: list[Sample]) -> float:
    return float(metric.value(metric.rows(samples).sum(0)))


def test_mean() -> None:
    samples = [sample(str(i), score=s) for i, s in enumerate((1.0, 0.3, 0.6, 0.0))]
    assert number(Mean("score"), samples) == pytest.approx(47.5)
    assert number(Mean("score", scale=1), samples) == pytest.approx(0.475)
    assert Mean("score").marks(samples) is None  # right by degrees
    marks = Mean().marks(marked([1, 0, 1]))
    assert marks is not None and marks.tolist() == [True, False, True]


def test_mean_f1_by_hand() -> None:
    # One set: 2 hits, 1 false alarm, 1 miss: F1 4/6. The other: 1 hit, no errors, and a rightly denied one: F1 1.
    table = [("popular", 1, 1), ("popular", 1, 1), ("popular", 1, 0), ("popular", 0, 1)]
    table += [("random", 1, 1), ("random", 0, 0)]
    samples = [yes_no(str(i), p, y, t) for i, (p, y, t) in enumerate(table)]
    assert number(MeanF1(), samples) == pytest.approx(100 * (4 / 6 + 1) / 2)
    marks = MeanF1().marks(samples)
    assert marks is not None and marks.tolist() == [True, True, False, False, True, True]
    nothing = [yes_no("0", "random", 0, 0)]
    assert number(MeanF1(), nothing) == 0


def test_mean_f1_reference() -> None:
    draw = random.Random(3)
    samples = [yes_no(str(i), "abc"[i % 3], draw.randint(0, 1), draw.randint(0, 1)) for i in range(90)]
    f1 = []
    for part in "abc":
        mine = [s for s in samples if s.part == part]
        hits = sum(s.scores["hit"] for s in mine)
        precision = hits / sum(s.scores["hit"] or s.scores["false_alarm"] for s in mine)
        recall = hits / sum(s.scores["hit"] or s.scores["missed"] for s in mine)
        f1.append(2 * precision * recall / (precision + recall))
    assert number(MeanF1(), samples) == pytest.approx(100 * sum(f1) / 3)


def test_accuracy_plus_by_hand() -> None:
    # A subtask of two pictures: right/right, right/wrong: 75 + 50. Another of one picture: wrong/wrong: 0 + 0.
    table = [("color", "a", 1), ("color", "a", 1), ("color", "b", 1), ("color", "b", 0)]
    table += [("count", "c", 0), ("count", "c", 0)]
    samples = [sample(str(i), part=p, unit=f"{p}/{u}", correct=c) for i, (p, u, c) in enumerate(table)]
    assert number(AccuracyPlus(), samples) == 125
    assert number(AccuracyPlus(), samples[::-1]) == 125  # in any order


def test_accuracy_plus_reference() -> None:
    draw = random.Random(5)
    samples = [
        sample(str(i), part=f"p{i % 3}", unit=f"p{i % 3}/{i // 6}", correct=draw.randint(0, 1))
        for i in range(84)
    ]
    total = 0.0
    for part in ("p0", "p1", "p2"):
        pictures = defaultdict(list)
        for s in samples:
            if s.part == part:
                pictures[s.unit].append(s.scores["correct"])
        assert all(len(pair) == 2 for pair in pictures.values())
        total += 100 * sum(map(sum, pictures.values())) / (2 * len(pictures))
        total += 100 * sum(sum(pair) == 2 for pair in pictures.values()) / len(pictures)
    assert number(AccuracyPlus(), samples) == pytest.approx(total)


def test_all_right() -> None:
    marks = {"a": (1, 1, 1), "b": (1, 0, 1), "c": (1,), "d": (0, 0)}
    samples = [
        sample(f"{unit}{i}", unit=unit, correct=x)
        for unit, right in marks.items()
        for i, x in enumerate(right)
    ]
    assert number(AllRight(), samples) == number(AllRight(), samples[::-1]) == 50


@pytest.mark.parametrize("metric", [MeanF1(), AccuracyPlus(), AllRight()])
def test_many_totals_at_once(metric: Metric) -> None:
    samples = [yes_no(str(i), "ab"[i % 2], i % 3 == 0, i % 5 < 2) for i in range(30)]
    total = metric.rows(samples).sum(0)
    both = metric.value(np.stack([total, 2 * total]))
    assert both.shape == (2,) and both[0] == pytest.approx(both[1]) == pytest.approx(number(metric, samples))


def test_join_accepts_the_same_questions_in_any_order() -> None:
    check_join("made", {"dense": marked([1, 0, 1]), "sparse": marked([0, 0, 0])[::-1]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (marked([1, 0]), r"'sparse' lacks 1 samples that 'dense' has, the first is '002'"),
        (marked([1, 0, 1, 1]), r"'dense' lacks 1 samples that 'sparse' has, the first is '003'"),
        (
            [*marked([1, 0, 1])[:2], replace(marked([1, 0, 1])[2], target="x")],
            "disagree on the target of .*'002'",
        ),
        (
            [*marked([1, 0, 1])[:2], replace(marked([1, 0, 1])[2], unit="x")],
            "disagree on the unit of .*'002'",
        ),
        ([*marked([1, 0, 1]), *marked([1])], "'sparse' has 1 samples twice"),
    ],
)
def test_join_refuses(other: list[Sample], message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        check_join("made", {"dense": marked([1, 0, 1]), "sparse": other})


def test_samples_go_through_a_line() -> None:
    one = replace(marked([1], tags=("small", "größe"))[0], target=["a\nb", 2], answer='"\u2028')
    assert Sample.from_line(one.to_line()) == replace(one, target=["a\nb", 2])
    assert "\n" not in one.to_line()


def test_fingerprint_and_items() -> None:
    assert task_fingerprint(Made()) == task_fingerprint(Made())
    others = {
        task_fingerprint(Made(count=39)),
        task_fingerprint(Made(metric=Mean("other"))),
        task_fingerprint(Made()),
    }
    assert len(others) == 3
    with pytest.raises(SparseSightError, match="'made' has no questions"):
        check_items(Made(count=0))
