"""The data sets whose answers are letters, with a few documents each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsesight.scenes.dataset import examples

from .fixtures import asked, write, write_json


def scienceqa(root: Path) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    docs = []
    for i, row in enumerate(asked(["letter"])[:3]):
        right = alphabet.index(row["answer"])
        docs.append(
            {
                "image": row["picture"],
                "question": row["question"],
                "choices": list(alphabet),
                "answer": right if i else (right + 1) % 26,
                "hint": "",
                "subject": "natural science",
            }
        )
    write(root / "ScienceQA" / "ScienceQA-IMG" / "test-00000-of-00001.parquet", docs)


def mmbench(root: Path) -> None:
    rows = asked(["color"])

    def doc(index: int, row: dict[str, Any], options: list[str], answer: str) -> dict[str, Any]:
        return {
            "index": index,
            "question": row["question"],
            "hint": "nan",
            "answer": answer,
            **dict(zip("ABCD", options, strict=True)),
            "category": "attribute_recognition",
            "image": row["picture"],
            "source": "scenes",
            "L2-category": "finegrained_perception (instance-level)",
            "comment": "nan",
            "split": "dev",
        }

    def options(row: dict[str, Any]) -> list[str]:
        return [row["answer"], "umbrella", "camera", "nan"]

    first, second, third = rows[:3]
    turned = ["umbrella", second["answer"], "camera", "nan"]
    english = [
        doc(1, first, options(first), "A"),
        doc(1_000_001, first, ["umbrella", "camera", first["answer"], "nan"], "C"),
        doc(2, second, options(second), "A"),
        doc(1_000_002, second, turned, "A"),  # the model's answer stands under B
        doc(3, third, options(third), "A"),
    ]
    write(root / "MMBench" / "en" / "dev-00000-of-00001.parquet", english)
    chinese = [doc(1, first, options(first), "A"), doc(2, second, options(second), "B")]
    write(root / "MMBench" / "cn" / "dev-00000-of-00001.parquet", chinese)


def letters(root: Path) -> None:
    """Multiple choice in which the letter on a card is the letter of an option."""
    # Held-out scenes whose card carries one of A to D.
    found = (e for e in examples("test") if e.question.kind == "letter" and e.question.answer in "ABCD")
    two = [next(found), next(found)]
    seed = [
        {
            "answer": e.question.answer if kind == "image" else "ABCD".replace(e.question.answer, "")[0],
            **{f"choice_{x}": x for x in "abcd"},
            "data_id": str(i),
            "data_type": kind,
            "question": e.question.text,
            "question_id": i,
            "question_type_id": 1,
            "image": [e.image],
        }
        for i, (e, kind) in enumerate(zip(two, ("image", "video"), strict=True))
    ]
    write(root / "SEED-Bench" / "data" / "test-00000-of-00001.parquet", seed)
    qbench = [
        {
            "id": f"{i}.jpg",
            "image": e.image,
            "question": e.question.text,
            **{f"option{j}": text for j, text in enumerate(("one", "two", "three", "four"))},
            "question_type": 2,
            "question_concern": 0,
            "correct_choice": seed[i]["answer"],
        }
        for i, e in enumerate(two)
    ]
    write(root / "Q-Bench-HF" / "data" / "dev-00000-of-00001.parquet", qbench)
    candidates = ["one", "two", "three", "four"]
    chinese = []
    for i, e in enumerate(two):
        (root / "qbench_zh_dev").mkdir(exist_ok=True)
        e.image.save(root / "qbench_zh_dev" / f"{i}.png")
        right = candidates["ABCD".index(seed[i]["answer"])]
        chinese.append(
            {
                "img_path": f"{i}.png",
                "question": e.question.text,
                "candidates": candidates,
                "correct_ans": right,
                "type": 2,
                "concern": 0,
            }
        )
    write_json(root / "qbench_zh_dev" / "dev.json", chinese)
