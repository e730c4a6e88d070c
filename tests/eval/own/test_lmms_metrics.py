"""Every metric that lmms-eval registers: as its own functions judge one answer, or refused with the reason."""

from __future__ import annotations

import pytest

from sparsesight import SparseSightError
from sparsesight.eval.own.lmms_metrics import NAMED, RELAXED, lmms_metric

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")

SAID, RIGHT = "a small red star left of the ring", "a small red star left of a ring"


def test_every_registered_metric_judges_answers_or_is_refused() -> None:
    from lmms_eval.api import metrics  # noqa: F401
    from lmms_eval.api.registry import METRIC_REGISTRY

    able = {RELAXED}
    for name in METRIC_REGISTRY:
        try:
            judge = lmms_metric(name)
        except SparseSightError as error:
            assert f"{name!r}: this metric of lmms-eval does not judge one answer" in str(error)
            continue
        able.add(name)
        assert judge(RIGHT, RIGHT) == 1 > judge("three blue cars", RIGHT) >= 0, name
    assert able == set(NAMED)


def test_scores_are_lmms_evals_own() -> None:
    from lmms_eval.api import metrics

    pair = [(RIGHT, SAID)]
    assert lmms_metric("bleu")(SAID, RIGHT) == pytest.approx(metrics.bleu(pair) / 100)
    assert lmms_metric("chrf")(SAID, RIGHT) == pytest.approx(metrics.chrf(pair) / 100)
    assert lmms_metric("ter")(SAID, RIGHT) == pytest.approx(1 - 1 / 8)  # one word of eight
    assert lmms_metric("ter")("red " * 40, "red") == 0  # more edits than words
    assert lmms_metric("anls")("abcd", "abce") == 0.75
    assert lmms_metric("exact_match")("Red", "red") == 0


def test_a_metric_that_a_user_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.api import registry

    def words(references: list[str], predictions: list[str]) -> dict[str, float]:
        both = set(references[0].split()) & set(predictions[0].split())
        return {"words": len(both) / len(references[0].split())}

    monkeypatch.setitem(registry.METRIC_REGISTRY, "words", words)
    assert lmms_metric("words")("a red car", "red car") == 1


def test_names_that_are_none() -> None:
    with pytest.raises(SparseSightError, match=r"'exakt' is no metric .* did you mean 'exact'.*--tasks NAME"):
        lmms_metric("exakt", ("exact",))
