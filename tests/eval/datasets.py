"""The benchmarks' data sets with a few documents each, and the scores that right reading of them must give.

The bundled model answers each of its questions rightly when it is asked without instructions (BARE), so a score is
known from how many references were made wrong here. Every number is worked out beside the documents.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsesight.eval.lmms.benchmarks import BENCHMARKS, Benchmark

from .choice_datasets import letters, mmbench, scienceqa
from .fixtures import asked, write, write_json

WITHOUT = {"default": {"pre_prompt": "", "post_prompt": "", "format": "default", "ocr": False}}
PLAIN_PROMPT = {"lmms_eval_specific_kwargs": WITHOUT}


def _question(doc: dict[str, Any], settings: Any = None) -> str:
    return str(doc["question"])


# What leaves the instructions out of each benchmark's prompt.
BARE: dict[str, dict[str, Any]] = {
    "gqa": PLAIN_PROMPT,
    "vqav2": PLAIN_PROMPT,
    "vizwiz": PLAIN_PROMPT,
    "textvqa": PLAIN_PROMPT,
    "scienceqa": {"doc_to_text": _question},
    "pope": PLAIN_PROMPT,
    # A space, because lmms-eval takes "Please answer yes or no." out only where it has something to put there.
    "mme": {"lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": " "}}},
    "mmbench": {"doc_to_text": _question},
    "mmbench_cn": {"doc_to_text": _question},
    "seed": {"doc_to_text": _question},
    "qbench": {"doc_to_text": _question},
    "qbench_zh": {"doc_to_text": _question},
    "msvd_qa_words": {"doc_to_text": _question},
}

EXPECTED = {
    "gqa": 75.0,  # 3 of 4
    # Two of ten people said so: for each of them one other did, 1/3; for the other eight two did, 2/3. Together
    # (2 x 1/3 + 8 x 2/3) / 10 = 0.6; with the other question, on which all agree, (0.6 + 1) / 2.
    "textvqa": 80.0,
    # Three of ten: (3 x 2/3 + 7 x 1) / 10 = 0.9; and nobody: 0.
    "vqav2": 45.0,
    "vizwiz": 50.0,  # everybody, nobody
    "scienceqa": 200 / 3,  # 2 of 3
    # random: all right, F1 1. popular: one hit, one false alarm, precision 1/2, recall 1, F1 2/3.
    # adversarial: one hit, one miss, precision 1, recall 1/2, F1 2/3.
    "pope": 700 / 9,
    # existence: a pair all right, 100 + 100; a pair half right, 50 + 0; mean 125.
    # commonsense_reasoning: a pair all right, 200. code_reasoning: a pair all wrong, 0.
    "mme": 325.0,
    "mmbench": 200 / 3,  # of three questions one is right in one order of its options only
    "mmbench_cn": 50.0,
    "seed": 50.0,
    "qbench": 50.0,
    "qbench_zh": 50.0,
    "msvd_qa_words": 50.0,
}


# What a judge says of the answers "answer 0", "answer 1", ... to the questions of each data set, in their order, and
# the score that must give; a pair is of the reference and of the answer.
VERDICTS = {
    "mmvet": ["0.5", "1.0", "0.0"],
    "llava_wild": ["8 6\nThe second one is shorter.", "10 5", "9 9"],
    "llava_coco": ["10 4", "8 8", "2 0"],
}
JUDGED = {
    "mmvet": 50.0,  # (0.5 + 1 + 0) / 3
    "llava_wild": 2000 / 27,  # (6 + 5 + 9) / (8 + 10 + 9)
    "llava_coco": 60.0,  # (4 + 8 + 0) / (10 + 8 + 2)
}


def bare(name: str) -> Benchmark:
    """A benchmark, asked without instructions."""
    return replace(BENCHMARKS[name], overrides=BARE[name])


def build(root: Path) -> Path:
    """Write all of them below a folder, and give that."""
    _gqa(root)
    _vqa(root)
    scienceqa(root)
    _pope(root)
    _mme(root)
    mmbench(root)
    letters(root)
    _clips(root)
    _judged(root)
    return root


def _other(answer: str) -> str:
    """A reference that the model will not give."""
    return {"yes": "no", "no": "yes"}.get(answer, "umbrella")


def _gqa(root: Path) -> None:
    rows = asked(["color"])
    docs = [
        {
            "id": f"20190{i}",
            "imageId": row["name"],
            "question": row["question"],
            "isBalanced": True,
            "answer": row["answer"] if i else _other(row["answer"]),
            "fullAnswer": f"It is {row['answer']}.",
        }
        for i, row in enumerate(rows)
    ]
    folder = root / "GQA"
    write(folder / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", docs)
    # Another order than the questions': they are joined by name.
    pictures = [{"id": row["name"], "image": row["picture"]} for row in reversed(rows)]
    write(folder / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", pictures)


def _vqa(root: Path) -> None:
    size, shape = asked(["size"])[0], asked(["shape"])[1]

    def ten(answer: str, times: int) -> list[str]:
        return [answer] * times + ["umbrella"] * (10 - times)

    write(
        root / "textvqa" / "data" / "validation-00000-of-00001.parquet",
        [
            {
                "image_id": row["name"],
                "question_id": 34602 + i,
                "question": row["question"],
                "image": row["picture"],
                "image_classes": ["Camera"],
                "answers": ten(row["answer"], times),
                "ocr_tokens": ["DAKOTA", "DIGITAL"],
                "set_name": "val",
            }
            for i, (row, times) in enumerate([(size, 2), (shape, 10)])
        ],
    )
    write(
        root / "VQAv2" / "data" / "validation-00000-of-00001.parquet",
        [
            {
                "question_type": "what",
                "multiple_choice_answer": row["answer"],
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": j}
                    for j, answer in enumerate(ten(row["answer"], times))
                ],
                "image_id": i,
                "answer_type": "other",
                "question_id": i,
                "question": row["question"],
                "image": row["picture"],
            }
            for i, (row, times) in enumerate([(size, 3), (shape, 0)])
        ],
    )
    write(
        root / "VizWiz-VQA" / "data" / "val-00000-of-00001.parquet",
        [
            {
                "question_id": f"VizWiz_val_{i:08}.jpg",
                "image": row["picture"],
                "question": row["question"],
                "answers": ten(row["answer"], times),
                "category": "other",
            }
            for i, (row, times) in enumerate([(size, 10), (shape, 0)])
        ],
    )


def _pope(root: Path) -> None:
    rows = asked(["exist", "compare"])
    yes = [row for row in rows if row["answer"] == "yes"]
    no = [row for row in rows if row["answer"] == "no"]
    sets = {
        "random": [(yes[0], "yes"), (no[0], "no")],
        "popular": [(yes[0], "yes"), (yes[1], "no")],
        "adversarial": [(yes[0], "yes"), (no[0], "yes")],
    }
    for name, pairs in sets.items():
        docs = [
            {
                "id": str(i),
                "question_id": str(i + 1),
                "question": row["question"],
                "answer": label,
                "image_source": "COCO_val2014_000000310196",
                "image": row["picture"],
                "category": name,
            }
            for i, (row, label) in enumerate(pairs)
        ]
        write(root / "POPE" / "Full" / f"{name}-00000-of-00001.parquet", docs)


def _mme(root: Path) -> None:
    exist, compare = asked(["exist"]), asked(["compare"])
    plan = [  # category, what is wrong in the pair
        ("existence", (False, False)),
        ("existence", (True, False)),
        ("commonsense_reasoning", (False, False)),
        ("code_reasoning", (True, True)),
    ]
    docs = []
    for i, (category, wrong) in enumerate(plan):
        for row, bad in zip((exist[i], compare[i]), wrong, strict=True):
            docs.append(
                {
                    "question_id": f"{category}/{i:04}.png",
                    "image": row["picture"],
                    "question": f"{row['question']} Please answer yes or no.",
                    "answer": (_other(row["answer"]) if bad else row["answer"]).capitalize(),
                    "category": category,
                }
            )
    write(root / "MME" / "data" / "test-00000-of-00001.parquet", docs)


def _judged(root: Path) -> None:
    """What a language model judges: a reference, what it may know of the picture, and a category or capabilities."""
    three = asked(["shape"])[:3]
    abilities = ("rec", "ocr,spat", "rec,know,gen")
    write(
        root / "MMVet" / "data" / "test-00000-of-00001.parquet",
        [
            {
                "question_id": f"v1_{i}",
                "image": row["picture"],
                "question": row["question"],
                "answer": f"{row['answer']}<OR>a {row['answer']}",
                "image_source": "scenes",
                "capability": capability,
            }
            for i, (row, capability) in enumerate(zip(three, abilities, strict=True))
        ],
    )
    # The two are told apart by where the reference stands.
    for folder, reference in (("llava-bench-in-the-wild", "gpt_answer"), ("llava-bench-coco", "answer")):
        write(
            root / folder / "data" / "train-00000-of-00001.parquet",
            [
                {
                    "question_id": i,
                    "question": row["question"],
                    "image": row["picture"],
                    "caption": "A scene.",
                    reference: f"It is a {row['answer']}.",
                    "category": category,
                    "image_id": row["name"],
                }
                for i, (row, category) in enumerate(zip(three, ("conv", "detail", "complex"), strict=True))
            ],
        )


def _clips(root: Path) -> None:
    import av

    folder = root / "MSVD_Zero_Shot_QA"
    questions, answers = [], []
    for i, row in enumerate(asked(["shape"])[:2]):
        path = folder / "videos" / f"clip_{i}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as clip:
            stream = clip.add_stream("ffv1", rate=2)
            stream.width, stream.height, stream.pix_fmt = *row["picture"].size, "bgr0"
            for _ in range(3):
                clip.mux(stream.encode(av.VideoFrame.from_image(row["picture"])))
            clip.mux(stream.encode())
        questions.append({"video_name": f"clip_{i}", "question_id": f"v_{i}", "question": row["question"]})
        answers.append({"answer": row["answer"] if i else _other(row["answer"]), "question_id": f"v_{i}"})
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", list(reversed(answers)))  # joined by id, not by place
