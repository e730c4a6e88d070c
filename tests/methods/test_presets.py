"""Published settings by name are what ``published()`` gives, at published budgets and no others."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight import METHODS, BudgetError, FastV, PyramidDrop, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.core.facts import UNSAID
from sparsesight.methods import describe_published, has_budget, is_published, make_method, parse

PUBLISHED = {name: kind for name, kind in METHODS.items() if kind.published_at is not None}


def test_every_method_says_what_its_scores_are() -> None:
    """In few enough words for the title of a panel."""
    for name, kind in METHODS.items():
        said = kind().meaning.scores
        assert said != UNSAID.scores and len(said) <= 64, name


def test_whoever_has_a_setting_has_a_name_for_it() -> None:
    assert set(PUBLISHED) == {name for name, kind in METHODS.items() if hasattr(kind, "published")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_what_published_gives(name: str) -> None:
    kind: Any = PUBLISHED[name]
    assert parse(f"{name}:published") == kind.published()
    for retain in list(kind.published_at)[:5]:
        made = make_method(f"{name}:published", retain=retain)
        assert made == kind.published(retain) == parse(f"{name}:published(retain={retain})")
    assert f"{name}:published" in describe_published(kind)


def test_published_is_not_the_default() -> None:
    found = parse("sparsevlm:published(retain=128)")
    assert found == SparseVLM.published(128) != SparseVLM(128)
    assert found.positions == "compact" and found.plan(576, 32, (2, 6, 15)).stages[0].keep == 303
    assert make_method("sparsevlm+:published", retain=64) == SparseVLMPlus.published(64)
    assert make_method("fastv:published", retain=144) == FastV.published(144)


@pytest.mark.parametrize(
    ("name", "retain", "message"),
    [
        ("sparsevlm", 160, "published at 192, 128, 96 or 64"),
        ("sparsevlm", 0.33, "published at 192, 128, 96 or 64"),
        ("sparsevlm", (300, 200, 110), "published at 192, 128, 96 or 64"),
        ("divprune", 64, "published at 0.098;"),
        ("vispruner", 0.5, "published at any number of tokens"),
        ("vispruner", True, "retain=True"),
        ("pyramiddrop", 64, "one setting without a budget"),
        ("random", 64, "no setting is published; write 'random'"),
    ],
)
def test_other_budgets_are_refused(name: str, retain: Any, message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        make_method(f"{name}:published", retain=retain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsevlm:published(layers=(1,2,3))", r"\['layers'\] cannot be chosen"),
        ("visionzip > sparsevlm:published", "nothing can come before or after it"),
        ("sparsevlm:publishd", "did you mean 'sparsevlm:published'"),
        ("sparsevlm:v1", "unknown"),
        ("sparsvlm:published", "unknown"),
    ],
)
def test_what_is_written_wrongly(text: str, message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        parse(text)


def test_another_depth_is_told_how_to_go_on() -> None:
    with pytest.raises(BudgetError, match=r"'sparsevlm' instead of 'sparsevlm:published'"):
        SparseVLM.published(192).stage_layers(8)
    with pytest.raises(BudgetError) as caught:
        SparseVLM(192, (2, 6, 14)).stage_layers(8)
    assert "published" not in str(caught.value)


def test_whether_a_budget_can_be_chosen() -> None:
    for text, varied in (
        ("sparsevlm", True),
        ("sparsevlm(retain=64)", True),
        ("sparsevlm:published", True),
        ("sparsevlm:published(retain=64)", False),
        ("pyramiddrop:published", False),
        ("pyramiddrop", True),
        ("sparsevlm(adaptive=True)", False),
    ):
        assert has_budget(text, parse(text)) is varied, text
    assert is_published("sparsevlm:published(retain=64)") and not is_published("sparsevlm(retain=64)")
    assert PyramidDrop.published() == parse("pyramiddrop:published")
