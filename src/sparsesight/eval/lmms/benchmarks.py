"""The published benchmarks, one row of data each.

Published scores are those of LLaVA-1.5-7B without pruning. ``ZOO`` is docs/MODEL_ZOO.md of LLaVA's own repository
(github.com/haotian-liu/LLaVA, row "LLaVA-1.5 7B full_ft-1e"), on the splits that its docs/Evaluation.md names. A row
without a score has none that could be verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import SparseSightError
from .prompt_templates import mmbench_cn_prompt, mmbench_prompt

ZOO = "LLaVA, docs/MODEL_ZOO.md"
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark as the published tables count it.

    Attributes:
        name: what a user writes.
        title: what tables call it.
        tasks: tasks of lmms-eval, or of ours (``tasks/``), that make it up.
        metrics: metrics whose values, over all tasks, are combined into the score. None: the task's first.
        combine: their mean or their sum.
        scale: factor from lmms-eval's unit to the published one.
        overrides: settings of the tasks that differ from lmms-eval's own, so that they are LLaVA-1.5's.
        correct: how right one logged sample is, 0 to 1; for paired tests.
        judged: whether a language model scores the answers, for which an API key is needed.
        published: LLaVA-1.5-7B's figure.
        source: where it stands.
        note: what keeps it from being compared as it is.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...] | None = None
    combine: Literal["mean", "sum"] = "mean"
    scale: float = 100.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    correct: Callable[[Sample], float] | None = None
    judged: bool = False
    published: float | None = None
    source: str = ""
    note: str = ""

    def score(self, results: Mapping[str, Mapping[str, Any]]) -> float:
        """The score from ``simple_evaluate(...)["results"]``.

        Raises:
            SparseSightError: if a task or metric is missing there, or has no value.
        """
        values = []
        for task in self.tasks:
            found = {
                key.rpartition(",")[0]: value for key, value in results.get(task, {}).items() if "," in key
            }
            names = self.metrics or tuple(key for key in found if "_stderr" not in key)[:1]
            # A task that has several metrics gives each; one that is run per set gives the same one per set.
            values += [found[name] for name in names if isinstance(found.get(name), int | float)]
        expected = len(self.tasks) * (len(self.metrics) if self.metrics else 1)
        if len(values) != expected:
            raise SparseSightError(
                f"benchmark {self.name!r}: {len(values)} of {expected} metrics have a value in the results"
            )
        total = sum(values)
        return float(self.scale * (total if self.combine == "sum" else total / len(values)))


def _exact(sample: Sample) -> float:
    return float(sample["exact_match"])


def _scored(*keys: str) -> Callable[[Sample], float]:
    """From what a scorer hands its aggregation, under the first key that the sample has."""
    return lambda sample: float(next(sample[key] for key in keys if key in sample)["score"])


def _letter(key: str, predicted: str) -> Callable[[Sample], float]:
    def correct(sample: Sample) -> float:
        entry = sample[key]
        return float(entry[predicted].lower().strip() == entry["answer"].lower().strip())

    return correct


def _mmbench(sample: Sample) -> float:
    """One question in one order of its options, by lmms-eval's own reading of the letter."""
    import pandas
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    entry = dict(sample["gpt_eval_score"])
    rows = pandas.DataFrame([entry])
    return float(MMBench_Evaluator().eval_sub_data(rows, {entry["index"]: entry["answer"]}, static_only=True))


SHORT = "\nAnswer the question using a single word or phrase."
SERVER = "published on {}, whose answers only its server has; here the validation split"
JUDGE = "the judge is lmms-eval's default (or MODEL_VERSION), not the one of the published figure"
VIDEOS = "Video-LLaVA's protocol (Lin et al., 2023); LLaVA-1.5 is shown frames as pictures"


def _answers(
    name: str, title: str, task: str, published: float | None, note: str = "", **more: Any
) -> Benchmark:
    """A benchmark of short answers that must match exactly."""
    source = "" if published is None else ZOO
    return Benchmark(
        name,
        title,
        (task,),
        ("exact_match",),
        correct=_exact,
        published=published,
        source=source,
        note=note,
        **more,
    )


def _video(name: str, title: str) -> tuple[Benchmark, Benchmark]:
    """A clip benchmark: as published, judged by a language model; and by equal words, which needs none."""
    return (
        Benchmark(
            name,
            title,
            (name,),
            ("gpt_eval_accuracy",),
            scale=1.0,
            correct=lambda sample: float("yes" in sample["gpt_eval_accuracy"]["Correctness"]),
            judged=True,
            note=f"{VIDEOS}; {JUDGE}",
        ),
        _answers(
            f"{name}_words",
            f"{title} (equal words)",
            f"{name}_words",
            None,
            "share of answers in the very words of the reference, no judge; lower than the published protocol",
        ),
    )


ROWS = (
    _answers("gqa", "GQA", "gqa", 62.0),
    _answers("vqav2", "VQAv2", "vqav2_val", 78.5, SERVER.format("test-dev")),
    _answers("vizwiz", "VizWiz", "vizwiz_vqa_val", 50.0, SERVER.format("the test split")),
    _answers(
        "textvqa",
        "TextVQA",
        "textvqa_val",
        58.2,
        "with the data set's OCR tokens in the prompt; lmms-eval writes the question in lower case",
        overrides={
            "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": SHORT, "ocr": True}}
        },
    ),
    _answers("scienceqa", "ScienceQA (img)", "scienceqa_img", 66.8),
    Benchmark(
        "pope",
        "POPE",
        ("pope_random", "pope_pop", "pope_adv"),
        ("pope_f1_score",),
        correct=_scored("pope_f1_score"),
        published=85.9,
        source=ZOO,
        note="mean F1 of the three sets; an answer that is neither yes nor no counts as neither, LLaVA's script takes "
        "it for yes",
    ),
    Benchmark(
        "mme",
        "MME",
        ("mme",),
        ("mme_perception_score", "mme_cognition_score"),
        combine="sum",
        scale=1.0,
        correct=_scored("mme_perception_score", "mme_cognition_score"),
        published=1862.0,
        source="the dense row that papers on pruning share, such as TwigVLM's README.md",
        note="perception + cognition; LLaVA's authors publish perception alone, 1510.7",
    ),
    Benchmark(
        "mmbench",
        "MMBench",
        ("mmbench_en_dev_static",),
        ("gpt_eval_score",),
        scale=1.0,
        overrides={"doc_to_text": mmbench_prompt},
        correct=_mmbench,
        published=64.3,
        source=ZOO,
        note="letters read by rule instead of by a language model; a question counts if every order of its options "
        "in the data is right",
    ),
    Benchmark(
        "mmbench_cn",
        "MMBench-CN",
        ("mmbench_cn_dev_static",),
        ("gpt_eval_score",),
        scale=1.0,
        overrides={"doc_to_text": mmbench_cn_prompt},
        correct=_mmbench,
        published=58.3,
        source=ZOO,
        note="as MMBench",
    ),
    Benchmark(
        "seed",
        "SEED-Bench",
        ("seedbench",),
        ("seed_all",),
        correct=_letter("seed_all", "pred"),
        published=58.6,
        source=ZOO,
        note="LLaVA shows the middle frame of a clip, lmms-eval all frames that its data hold",
    ),
    Benchmark(
        "mmvet",
        "MM-Vet",
        ("mmvet",),
        ("gpt_eval_score",),
        scale=1.0,
        # lmms-eval asks for reasoning first; LLaVA's script asks the bare question.
        overrides={"lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}}},
        correct=_scored("gpt_eval_score"),
        judged=True,
        published=31.1,
        source=ZOO,
        note=JUDGE,
    ),
    Benchmark(
        "llava_wild",
        "LLaVA-Bench (Wild)",
        ("llava_in_the_wild",),
        ("gpt_eval_llava_all",),
        scale=1.0,
        judged=True,
        published=65.4,
        source=ZOO,
        note=JUDGE,
    ),
    Benchmark(
        "llava_coco",
        "LLaVA-Bench (COCO)",
        ("llava_bench_coco",),
        ("gpt_eval_llava_all",),
        scale=1.0,
        overrides={"doc_to_target": "answer"},  # lmms-eval names a column that the data do not have
        judged=True,
        note=JUDGE,
    ),
    Benchmark(
        "qbench",
        "Q-Bench",
        ("qbench_dev",),
        ("qbench_acc",),
        correct=_letter("qbench_acc", "parsed_pred"),
        note="lmms-eval draws a letter at random for an answer that names none",
    ),
    _answers(
        "qbench_zh",
        "Chinese Q-Bench",
        "qbench_zh_dev",
        None,
        "a task of ours; an answer that names no letter is wrong",
    ),
    *_video("tgif_qa", "TGIF-QA"),
    *_video("msvd_qa", "MSVD-QA"),
    *_video("msrvtt_qa", "MSRVTT-QA"),
    *_video("activitynet_qa", "ActivityNet-QA"),
)
BENCHMARKS = {row.name: row for row in ROWS}
