"""Benchmarks that a language model judges: lmms-eval's scorers with the judge's verdicts in place of the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")

from sparsesight import SparseSightError
from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.lmms.task import HarnessTask, harness_tasks
from sparsesight.eval.records import Answer, Sample
from tests.eval.made_samples import cost

from .datasets import EXPECTED, JUDGED, VERDICTS, build

Tasks = dict[str, HarnessTask]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    from sparsesight.eval.lmms.model import SparseSightModel

    root = tmp_path_factory.mktemp("judged")
    before = dict(os.environ)
    os.environ["LMMS_EVAL_DATASETS_CACHE"] = os.environ["HF_DATASETS_CACHE"] = str(root / "cache")
    os.environ.pop("API_TYPE", None)
    os.environ["OPENAI_API_KEY"] = "none"
    made = harness_tasks(
        list(JUDGED), SparseSightModel(batch_size="3"), data=build(root / "data"), limit=None
    )
    yield {task.name: task for task in made}
    os.environ.clear()
    os.environ.update(before)


def judged(
    task: HarnessTask, verdicts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, float]]:
    """What the task's answers score; a verdict that is an error is raised in place of a reply."""
    from lmms_eval.llm_judge import Response
    from lmms_eval.llm_judge.providers import OpenAIProvider

    def evaluate(self: Any, request: Any) -> Any:
        (number,) = set(re.findall(r"answer (\d)\b", request.messages[-1]["content"]))
        verdict = verdicts[int(number)]
        if isinstance(verdict, Exception):
            raise verdict
        return Response(verdict, "judge")

    with monkeypatch.context() as patch:
        patch.setattr(OpenAIProvider, "evaluate", evaluate)
        return task.score({item.id: f"answer {i}" for i, item in enumerate(task.items)})


def test_every_benchmark_is_scored_somewhere() -> None:
    """Here, in test_scorers, or, for clips, in one of four data sets that differ in nothing but names."""
    clips = {f"{x}_qa{end}" for x in ("tgif", "msvd", "msrvtt", "activitynet") for end in ("", "_words")}
    assert set(BENCHMARKS) == {*EXPECTED, *JUDGED, *clips}


@pytest.mark.parametrize("name", JUDGED)
def test_scores_are_those_worked_out_by_hand(
    name: str, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lmms-eval's own number is checked against the sum on the way."""
    task = tasks[name]
    scores = judged(task, VERDICTS[name], monkeypatch)
    assert task.items[0].target == ("square<OR>a square" if name == "mmvet" else "It is a square.")
    samples = [Sample.of(item, Answer("", cost()), scores[item.id]) for item in task.items]
    found = task.metric.value(task.metric.rows(samples).sum(0))
    assert float(found) == pytest.approx(JUDGED[name], abs=1e-6)


@pytest.mark.parametrize("verdict", [ConnectionError("no judge"), "", "I cannot compare them.", "-1 -1"])
@pytest.mark.parametrize("name", ["llava_wild", "llava_coco"])
def test_a_pair_without_scores_is_refused(
    name: str, verdict: Any, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = [VERDICTS[name][0], verdict, VERDICTS[name][2]]
    with pytest.raises(SparseSightError, match=rf"^task '{name}': the judge gave no score for .*/000001"):
        judged(tasks[name], verdicts, monkeypatch)


@pytest.mark.parametrize("verdict", [ConnectionError("no judge"), ""])
def test_an_answer_of_mmvet_that_nobody_judged_is_refused(
    verdict: Any, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SparseSightError, match=r"^task 'mmvet': the judge gave no score for mmvet/000002"):
        judged(tasks["mmvet"], ["0.5", "0.0", verdict], monkeypatch)


def test_a_zero_is_a_score(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = judged(tasks["mmvet"], ["0.0", "0", "0.0 so wrong"], monkeypatch)
    assert [x["correct"] for x in scores.values()] == [0.0] * 3
