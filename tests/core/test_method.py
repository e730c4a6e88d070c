"""What holds for every method: plain data, clear errors, exact counts, stable ties, batch = alone."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import METHODS, BudgetError, Method, Random, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.core.budget import Schedule
from sparsesight.core.stage import StageInput, planned_counts
from sparsesight.methods import from_dict, make_method

from ..methods.stages import NUM_LAYERS, Sample, build, normal

INSTANCES: list[Method] = [
    *(kind() for kind in METHODS.values()),
    *(kind(retain) for kind in METHODS.values() for retain in (1, 1.0, 0.25, 192, (30, 20, 10))),
    *(kind(64, (1, 3), "compact", True) for kind in METHODS.values()),
    SparseVLM.published(),
    SparseVLM.published(64),
    SparseVLM.v1_0(),
    SparseVLM.v1_0(9, 6),
    SparseVLM.video(),
    SparseVLM(recycle=0.0),
    SparseVLMPlus.published(),
    SparseVLMPlus.published(96),
    SparseVLMPlus(heads=1.0, gravity_floor=None),
    SparseVLMPlus(heads=1),
    Random(seed=-3),
]


@dataclasses.dataclass(frozen=True)
class VisualMaskSpec(Method):
    """Scores are the first hidden feature, so that a test can choose them."""

    recycle: float = 0.0

    name: ClassVar[str] = "given"

    @property
    def recycled_fraction(self) -> float:
        return self.recycle

    def score(self, stage: StageInput) -> Tensor:
        return stage.hidden[..., 0].gather(1, stage.column)


def scored(scores: list[float], before: int = 2, after: int = 3, seed: int = 0) -> Sample:
    sample = Sample.random(seed, before, len(scores), after)
    sample.hidden[sample.at_visual, 0] = torch.tensor(scores)
    return sample


# -- plain data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", INSTANCES, ids=repr)
def test_json_and_back(method: Method) -> None:
    data = json.loads(json.dumps(method.to_dict()))
    again = from_dict(data)
    assert again == method and hash(again) == hash(method)
    assert type(again) is type(method) and repr(again) == repr(method)  # 1 and 1.0 are equal, not the same
    assert from_dict(method.to_dict()) == method
    assert data["method"] == method.name and "method" in data


@pytest.mark.parametrize("kind", METHODS.values())
def test_methods_are_frozen(kind: type[Method]) -> None:
    method = kind()
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, getattr(method, field.name))


@pytest.mark.parametrize(("name", "kind"), METHODS.items())
def test_the_table_has_every_method_under_its_name(name: str, kind: type[Method]) -> None:
    assert kind.name == name
    assert make_method(name, retain=32) == kind(32)
    assert make_method(kind(32)) == kind(32)


def test_numbers_of_numpy_and_lists_become_plain() -> None:
    count: Any = np.int64(64)
    ratio: Any = np.float32(0.5)
    listed: Any = [np.int64(30), 20]
    for retain, plain in ((count, 64), (ratio, 0.5), (listed, (30, 20))):
        for kind in METHODS.values():
            method = kind(retain, layers=[np.int32(1), 3])  # type: ignore[arg-type]
            assert method == kind(plain, (1, 3)) and type(method.retain) is type(plain)
            assert from_dict(json.loads(json.dumps(method.to_dict()))) == method


# -- errors ------------------------------------------------------------------------------------------------------


def test_unknown_names() -> None:
    for name in ("sparsevlm++", "", None, 3, ["random"]):
        with pytest.raises(SparseSightError, match="'random', 'scope', 'sparsevlm', 'sparsevlm\\+'") as error:
            make_method(name)  # type: ignore[arg-type]
        assert f"method={name!r} is unknown" in str(error.value)
    with pytest.raises(SparseSightError, match="known are"):
        from_dict({"retain": 64})


@pytest.mark.parametrize("name", METHODS)
def test_unknown_options(name: str) -> None:
    with pytest.raises(SparseSightError, match=r"has no option \['depth', 'retian'\].*'retain', 'layers'"):
        make_method(name, retian=64, depth=1)
    with pytest.raises(SparseSightError, match=r"options \['retain'\] go with a method name"):
        make_method(METHODS[name](), retain=64)
    with pytest.raises(SparseSightError, match="has no option"):
        from_dict({"method": name, "colour": "red"})


@pytest.mark.parametrize("kind", METHODS.values())
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retain": 0}, "at least 1"),
        ({"retain": True}, "use an int"),
        ({"retain": "64"}, "use an int"),
        ({"retain": 1.5}, r"\(0, 1\]"),
        ({"retain": math.nan}, r"\(0, 1\]"),
        ({"retain": ()}, "count >= 0"),
        ({"retain": [3, 4]}, "cannot grow"),
        ({"layers": ()}, "ascending"),
        ({"layers": (6, 2)}, "ascending"),
        ({"layers": (-2,)}, "ascending"),
        ({"layers": ("2",)}, "ascending"),
        ({"layers": (2, "6")}, "ascending"),
        ({"layers": (2.5,)}, "ascending"),
        ({"layers": 2}, "ascending"),
        ({"layers": "26"}, "ascending"),
        ({"positions": "old"}, "'original' or 'compact'"),
        ({"positions": None}, "'original' or 'compact'"),
        ({"always_drop": 1}, "True or False"),
        ({"always_drop": "no"}, "True or False"),
    ],
    ids=str,
)
def test_bad_fields(kind: type[Method], options: dict[str, Any], says: str) -> None:
    with pytest.raises(SparseSightError, match=says) as error:
        kind(**options)
    assert str(error.value).startswith(f"{next(iter(options))}=")


# -- where and how many ------------------------------------------------------------------------------------------


def test_stage_layers() -> None:
    assert SparseVLM(64).stage_layers(32) == (2, 6, 15)
    assert SparseVLM(64).stage_layers(32, allowed=tuple(range(8, 31))) == (8, 9, 15)
    assert SparseVLM(64, (1, 9)).stage_layers(32) == (1, 9)
    assert SparseVLM((50, 20)).stage_layers(32) == (2, 6)  # as many stages as there are counts
    assert SparseVLM((50, 20), adaptive=True).stage_layers(32) == (
        2,
        6,
        15,
    )  # whose counts come from the data


def test_layers_that_the_model_does_not_have() -> None:
    with pytest.raises(BudgetError, match=r"layers=\(2, 40\): .* from 0 to 30 \(of 32\)"):
        SparseVLM(64, (2, 40)).stage_layers(32)
    with pytest.raises(SparseSightError, match=r"cannot prune after \[2\]; possible: \(5, 6, 7\)"):
        SparseVLM(64, (2, 6)).stage_layers(32, allowed=(5, 6, 7))
    with pytest.raises(BudgetError, match="offers 2 pruning layers"):
        SparseVLM(64).stage_layers(3)


def test_too_many_counts() -> None:
    method = SparseVLM((50, 20, 10, 5))
    with pytest.raises(BudgetError, match=r"retain=\(50, 20, 10, 5\) has 4 counts for 3"):
        method.plan(576, 32, method.stage_layers(32))


def test_planned_counts() -> None:
    """One sample recycles, one is left alone, one has no visual tokens."""
    method = SparseVLM((60, 40, 20))
    schedules = [
        method.plan(100, 32, (2, 6, 15)),
        Schedule(30, 32, ()),
        Schedule(0, 32, ()),
        method.plan(50, 32, (2, 6, 15)),
    ]
    (stages,) = planned_counts(schedules, 3, torch.device("cpu"))
    for i, counts in enumerate(stages):
        first, last = schedules[0].stages[i], schedules[3].stages[i]
        assert counts.keep.tolist() == [first.keep, 30, 0, last.keep]
        assert counts.recycle.tolist() == [first.recycled, 0, 0, last.recycled]
        assert counts.recycled == (first.recycled, 0, 0, last.recycled)
        assert counts.merged == (first.merged, 0, 0, last.merged)
        assert counts.tokens_out == (first.tokens_out, 30, 0, last.tokens_out)
    assert [c.keep[0].item() for c in stages] == [60, 40, 20]
    assert [c.merged[0] for c in stages] == [2, 1, 1]  # of 40, 22 and 21 dropped


# -- selecting ---------------------------------------------------------------------------------------------------


def test_exactly_the_counted_tokens_stay() -> None:
    scores = [0.1, 0.9, 0.5, 0.7, 0.2, 0.8]
    _, stage = build(VisualMaskSpec((3,)), [scored(scores)])
    selection = VisualMaskSpec((3,)).select(stage)
    assert selection.keep.tolist() == [[False, True, False, True, False, True]]
    assert selection.recycled is None and selection.merge is None
    torch.testing.assert_close(selection.score, torch.tensor([scores]))


def test_ties_go_to_the_earlier_token() -> None:
    """Alone, and behind padding."""
    tied, longer = scored([1.0, 2.0, 1.0, 1.0, 1.0]), scored([0.0] * 9)
    for samples in ([tied], [longer, tied]):
        _, stage = build(VisualMaskSpec((3,)), samples)
        keep = VisualMaskSpec((3,)).select(stage).keep
        assert keep[-1, -5:].tolist() == [True, True, True, False, False]
        assert keep.sum(1).tolist() == [3] * len(samples)


def test_not_a_number_is_kept_last() -> None:
    _, stage = build(VisualMaskSpec((2,)), [scored([math.nan, 0.0, math.nan, -5.0])])
    assert VisualMaskSpec((2,)).select(stage).keep.tolist() == [[False, True, False, True]]


def test_the_best_of_the_dropped_are_recycled() -> None:
    """Forty dropped of fifty: thirteen are merged into two, best score first."""
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    sample = scored([float(x) for x in order])
    method = VisualMaskSpec((10,), recycle=0.3)
    _, stage = build(method, [sample])
    selection = method.select(stage)
    best = order.argsort(descending=True)
    assert sorted(best[:10].tolist()) == selection.keep[0].nonzero()[:, 0].tolist()
    assert selection.recycled is not None and selection.merge is not None
    assert selection.recycled[0].tolist() == best[10:23].tolist()
    assert selection.counts.tokens_out == (12,) and selection.merge.tokens.shape == (1, 2, 6)
    recycled = sample.hidden[sample.at_visual][best[10:23]]
    for q in range(2):
        members = recycled[selection.merge.assign[0] == q]
        torch.testing.assert_close(selection.merge.tokens[0, q], members.sum(0) / (len(members) + 1e-6))


def test_selecting_keeps_no_graph_but_merging_does() -> None:
    sample = scored([float(x) for x in range(30)])
    method = VisualMaskSpec((10,), recycle=0.3)
    _, stage = build(method, [sample])
    stage = dataclasses.replace(stage, hidden=stage.hidden.clone().requires_grad_())
    selection = method.select(stage)
    assert not selection.score.requires_grad
    assert selection.merge is not None and selection.merge.tokens.requires_grad


BATCH = [(3, 40, 9), (5, 25, 4), (0, 61, 1), (4, 7, 0), (2, 0, 6), (1, 40, 12)]
METHODS_IN_BATCHES: list[Method] = [
    *(kind((20, 9, 4)[: len(kind.depths)]) for kind in METHODS.values()),
    *(kind(0.5) for kind in METHODS.values()),
    SparseVLM((20, 9, 4), positions="compact", always_drop=True),
    SparseVLM(1.0, adaptive=True, scale=2.5),
    SparseVLMPlus((20, 9, 4), heads=2, gravity_floor=None),
]


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("poison", [math.nan, 1e30])
@pytest.mark.parametrize("method", METHODS_IN_BATCHES, ids=repr)
def test_a_batch_keeps_what_each_sample_keeps_alone(method: Method, poison: float, index: int) -> None:
    """Different sizes, one sample without text to judge and one without a picture; those two keep what they have."""
    samples = [Sample.random(10 + i, *sizes) for i, sizes in enumerate(BATCH)]
    layers = method.stage_layers(NUM_LAYERS)
    index = min(index, len(layers) - 1)
    _, together = build(method, samples, layers, index, poison)
    selection = method.select(together)
    for i, sample in enumerate(samples):
        v, counts = sample.visual, selection.counts
        keep = selection.keep[i][selection.keep.shape[1] - v :]
        assert selection.keep[i].sum() == keep.sum() == counts.keep[i]
        assert counts.tokens_out[i] == counts.keep[i] + counts.merged[i]
        if not (sample.visual and sample.after):
            assert keep.all() and counts.merged[i] == 0 and counts.tokens_out[i] == v
            continue
        _, single = build(method, [sample], layers, index, poison)
        alone = method.select(single)
        assert keep.tolist() == alone.keep[0].tolist()
        assert (counts.recycled[i], counts.merged[i]) == (alone.counts.recycled[0], alone.counts.merged[0])
        torch.testing.assert_close(selection.score[i][-v:], alone.score[0])
        if alone.merge is not None:
            assert selection.recycled is not None and selection.merge is not None
            assert alone.recycled is not None
            m, q = counts.recycled[i], counts.merged[i]
            first = selection.keep.shape[1] - v
            assert (selection.recycled[i, :m] - first).tolist() == alone.recycled[0].tolist()
            assert selection.merge.assign[i, :m].tolist() == alone.merge.assign[0].tolist()
            torch.testing.assert_close(selection.merge.tokens[i, :q], alone.merge.tokens[0])


def test_raters_by_default_are_those_of_the_paper() -> None:
    visual, text = normal(0, 1, 9, 8), normal(1, 1, 5, 8)
    flags = torch.ones(1, 9, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    for kind in (kind for kind in METHODS.values() if kind.select_raters is Method.select_raters):
        chosen = kind().select_raters(visual, text, *flags)
        share = (visual @ text.transpose(1, 2)).softmax(-1).mean(1)
        assert torch.equal(chosen, share > share.mean())
