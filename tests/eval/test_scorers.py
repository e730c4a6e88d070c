"""lmms-eval's own scorers, offline, on small data sets in the real formats: every score was worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")

from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.lmms.registry import Resolved, harness_arguments, resolve
from sparsesight.methods import make_method

from .datasets import EXPECTED, bare, build

NAMES = list(EXPECTED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("eval")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LMMS_EVAL_DATASETS_CACHE", "HF_DATASETS_CACHE"):
            patch.setenv(name, str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def resolved(folder: Path) -> Resolved:
    data = build(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(BENCHMARKS, name, bare(name))
        return resolve(NAMES, data)


@pytest.fixture(scope="module")
def model() -> Any:
    from sparsesight.eval.lmms.model import SparseSightModel

    return SparseSightModel(batch_size="3", frames=1)


def evaluate(model: Any, resolved: Resolved, folder: Path) -> dict[str, Any]:
    from lmms_eval.evaluator import simple_evaluate

    return simple_evaluate(
        model,
        tasks=resolved.tasks,
        task_manager=resolved.manager,
        bootstrap_iters=0,
        cli_args=harness_arguments(folder),
    )


@pytest.fixture(scope="module")
def outcome(model: Any, resolved: Resolved, folder: Path) -> dict[str, Any]:
    results = evaluate(model, resolved, folder / "run")
    return {**results, "costs": dict(model.costs)}


@pytest.mark.parametrize("name", NAMES)
def test_score(name: str, outcome: dict[str, Any]) -> None:
    answers = {t: [s["resps"] for s in outcome["samples"][t]] for t in BENCHMARKS[name].tasks}
    assert bare(name).score(outcome["results"]) == pytest.approx(EXPECTED[name], abs=1e-3), answers


@pytest.mark.parametrize("name", NAMES)
def test_samples_say_how_right_they_are(name: str, outcome: dict[str, Any]) -> None:
    """The mean over samples is the score itself where a benchmark is a plain mean."""
    benchmark = BENCHMARKS[name]
    assert benchmark.correct is not None
    samples = [sample for task in benchmark.tasks for sample in outcome["samples"][task]]
    right = [benchmark.correct(sample) for sample in samples]
    expected = {"pope": 4 / 6, "mme": 5 / 8, "mmbench": 4 / 5}.get(name, EXPECTED[name] / 100)
    assert sum(right) / len(right) == pytest.approx(expected, abs=1e-3)


def test_every_sample_has_its_cost(outcome: dict[str, Any]) -> None:
    logged = {(task, s["doc_id"]) for task, samples in outcome["samples"].items() for s in samples}
    assert set(outcome["costs"]) == logged
    assert {cost["visual_tokens"] for cost in outcome["costs"].values()} == {576}


def test_scorers_write_below_the_folder_they_are_given(outcome: dict[str, Any], folder: Path) -> None:
    assert list((folder / "run" / "submissions").iterdir())
    assert not Path("submissions").exists()


def test_the_same_tasks_run_again_under_a_method(
    model: Any, resolved: Resolved, outcome: dict[str, Any], folder: Path
) -> None:
    model.use(make_method("random", retain=1.0))
    try:
        again = evaluate(model, replace(resolved, tasks=resolved.tasks[:4]), folder / "again")
    finally:
        model.use(None)
    # A method that keeps everything is the dense model.
    assert again["results"] and again["results"].items() <= outcome["results"].items()
