"""The table of benchmarks against lmms-eval as installed; names, data and judges that are not there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")

from lmms_eval.utils import load_yaml_config

from sparsesight import SparseSightError
from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.lmms.registry import OUR_TASKS, OURS, find, resolve, task_manager

from ..datasets import build


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tasks") / "data")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("API_TYPE", "OPENAI_API_KEY", "AZURE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield


def test_all_published_benchmarks_have_a_row() -> None:
    assert {name for name in BENCHMARKS if not name.endswith("_words")} == {
        *("gqa", "vqav2", "vizwiz", "textvqa", "scienceqa", "pope", "mme", "mmbench", "mmbench_cn", "seed"),
        *("mmvet", "llava_wild", "llava_coco", "qbench", "qbench_zh"),
        *("tgif_qa", "msvd_qa", "msrvtt_qa", "activitynet_qa"),
    }


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_names_tasks_and_metrics_that_exist(name: str) -> None:
    row = BENCHMARKS[name]
    for task in row.tasks:
        config = load_yaml_config(task_manager().task_index[task]["yaml_path"], mode="simple")
        assert row.metrics is not None
        assert set(row.metrics) <= {metric["metric"] for metric in config["metric_list"]}
        assert config["output_type"] == "generate_until"
        assert not config["generation_kwargs"].get("do_sample")
        # lmms-eval ignores a key that it does not know, so an override must be one that is there.
        allowed = {"lmms_eval_specific_kwargs", "doc_to_text", "doc_to_target"}
        assert set(row.overrides) <= allowed & set(config)
    assert row.published is None or row.source


def results(**values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        task: {f"{metric},none": value for metric, value in found.items()} for task, found in values.items()
    }


def test_mme_is_the_sum_of_both_scores() -> None:
    found = results(mme={"mme_perception_score": 1510.7, "mme_cognition_score": 351.3})
    assert BENCHMARKS["mme"].score(found) == pytest.approx(1862)


def test_pope_is_the_mean_of_three_sets_in_percent() -> None:
    found = results(
        **{
            f"pope_{s}": {"pope_f1_score": f}
            for s, f in zip(("random", "pop", "adv"), (0.9, 0.8, 0.7), strict=True)
        }
    )
    assert BENCHMARKS["pope"].score(found) == pytest.approx(80)
    del found["pope_pop"]
    with pytest.raises(SparseSightError, match="2 of 3"):
        BENCHMARKS["pope"].score(found)


def test_a_metric_without_a_value_is_no_score() -> None:
    """lmms-eval writes text where it has no number."""
    with pytest.raises(SparseSightError, match="1 of 2"):
        BENCHMARKS["mme"].score(results(mme={"mme_perception_score": 1.0, "mme_cognition_score": " "}))


def test_any_other_task_counts_by_its_first_metric() -> None:
    row = find("chartqa")
    assert (
        row.score(results(chartqa={"relaxed_overall": 0.5, "relaxed_overall_stderr": 0.1, "x": 0.7})) == 0.5
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no benchmark"),
        (["mme", "mme"], r"\['mme'\] are named twice"),
        (["no_such_benchmark"], "'no_such_benchmark' is unknown"),
        (["mmbench_en"], "'mmbench_en' is a group"),
        (["msvd_qa_words"], "'msvd_qa_words' is not on the Hub"),
        (["mmvet"], "'mmvet' is scored by a language model: set OPENAI_API_KEY"),
        (["mme", "tgif_qa"], "'tgif_qa' is scored by a language model"),
    ],
)
def test_names_that_cannot_be_run(names: list[str], message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        resolve(names)


def test_a_judge_of_azure_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TYPE", "azure")
    with pytest.raises(SparseSightError, match="AZURE_API_KEY"):
        resolve(["mmvet"])


@pytest.mark.parametrize(
    ("name", "removed", "message"),
    [
        ("mme", "MME", r"no folder 'mme' or 'MME'"),
        ("mme", "MME/data", r"has no test\.parquet"),
        ("gqa", "GQA/testdev_balanced_images", r"has no testdev\.parquet"),
        ("pope", "POPE/Full/popular-00000-of-00001.parquet", r"has no popular\.parquet"),
        ("msvd_qa_words", "MSVD_Zero_Shot_QA/test_a.json", r"lacks one of test_q\.json, test_a\.json"),
        (
            "msvd_qa_words",
            "MSVD_Zero_Shot_QA/videos/clip_0.mkv",
            r"1 of 2 questions have no answer or no clip",
        ),
    ],
)
def test_data_that_are_not_there(name: str, removed: str, message: str, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    gone = copy / removed
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(SparseSightError, match=message):
        resolve([name], copy)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SparseSightError, match="is not a folder"):
        resolve(["mme"], tmp_path / "gone")


def prompt(name: str, data: Path, row: int = 0) -> str:
    (task,) = resolve([name], data).tasks
    turn = task.doc_to_messages(task.test_docs()[row])[-1]
    return str(turn["content"][-1]["text"])


def test_textvqa_is_asked_with_ocr_tokens(data: Path) -> None:
    assert prompt("textvqa", data) == (
        "What size is the cyan star?\nReference OCR token: DAKOTA, DIGITAL\n"
        "Answer the question using a single word or phrase."
    )


def test_mme_is_asked_for_a_word(data: Path) -> None:
    assert prompt("mme", data) == (
        "Is there a purple heart?\nAnswer the question using a single word or phrase."
    )


def test_mmbench_is_asked_as_llava_asks_it(data: Path) -> None:
    assert prompt("mmbench", data) == (
        "What color is the heart?\nA. white\nB. umbrella\nC. camera\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt("mmbench_cn", data).endswith("\nC. camera\n请直接回答选项字母。")


def test_gqa_shows_each_question_its_own_picture(data: Path) -> None:
    from ..fixtures import asked

    (task,) = resolve(["gqa"], data).tasks
    for doc, row in zip(task.test_docs(), asked(["color"]), strict=True):
        assert doc["image"].convert("RGB").tobytes() == row["picture"].tobytes()


def test_the_answers_of_clips_come_by_question(data: Path) -> None:
    (task,) = resolve(["msvd_qa_words"], data).tasks
    docs = list(task.test_docs())
    assert [doc["answer"] for doc in docs] == ["umbrella", "square"]
    assert [Path(doc["video"]).name for doc in docs] == ["clip_0.mkv", "clip_1.mkv"]


def test_the_judge_of_clips(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval's judge, with the network replaced by verdicts."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (task,) = resolve(["msvd_qa"], data).tasks
    from lmms_eval.tasks.activitynetqa import utils

    verdicts = iter(["{'pred': 'yes', 'score': 5}", "{'pred': 'no', 'score': 1}"])
    monkeypatch.setattr(utils, "get_eval", lambda *asked: (next(verdicts), "judge"))
    scored = [task.process_results(doc, ["square"]) for doc in task.test_docs()]
    row = BENCHMARKS["msvd_qa"]
    assert row.correct is not None
    assert [row.correct(sample) for sample in scored] == [1.0, 0.0]
    accuracy = task.aggregation()["gpt_eval_accuracy"]([s["gpt_eval_accuracy"] for s in scored])
    assert row.score(results(msvd_qa={"gpt_eval_accuracy": accuracy})) == 50.0

    monkeypatch.setattr(utils, "get_eval", lambda *asked: ("", ""))
    with pytest.raises(RuntimeError, match="no verdict"):
        task.config.process_results(task.test_docs()[0], ["square"])


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("B", 1.0),
        ("B.", 1.0),
        ("选项B", 1.0),
        ("蓝色", 1.0),
        ("A", 0.0),
        ("A 或 B", 0.0),
        ("不知道", 0.0),
        ("", 0.0),
    ],
)
def test_chinese_qbench_reads_a_letter_or_the_option(answer: str, score: float, data: Path) -> None:
    (task,) = resolve(["qbench_zh"], data).tasks
    doc = {"question": "?", "candidates": ["红色", "蓝色", "绿色"], "correct_ans": "蓝色"}
    assert task.process_results(doc, [answer]) == {"exact_match": score}


def test_our_tasks_have_yaml_of_their_own_names() -> None:
    for path in OUR_TASKS.glob("*/*.yaml"):
        assert re.search(rf"^task: {path.stem}$", path.read_text(), re.MULTILINE)
    assert {task for row in BENCHMARKS.values() for task in row.tasks} >= OURS
