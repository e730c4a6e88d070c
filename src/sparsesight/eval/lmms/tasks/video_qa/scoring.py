"""Questions about clips: TGIF-, MSVD-, MSRVTT- and ActivityNet-QA."""

from collections.abc import Mapping
from typing import Any

Doc = Mapping[str, Any]


def doc_to_visual(doc: Doc) -> list[Any]:
    return [{"type": "video", "url": doc["video"]}]


def doc_to_text(doc: Doc) -> str:
    question = doc["question"].strip()
    question = question if question.endswith("?") else f"{question}?"
    return f"{question[0].upper()}{question[1:]}\nAnswer the question using a single word or phrase."


def equal_words(doc: Doc, results: list[str]) -> dict[str, float]:
    """Whether the answer has the reference's words, as VQA's evaluation normalises them."""
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    normal = EvalAIAnswerProcessor()
    return {"exact_match": float(normal(results[0]) == normal(doc["answer"]))}


def judge(doc: Doc, results: list[str]) -> dict[str, Any]:
    """lmms-eval's judge of ActivityNet-QA, which follows Video-ChatGPT's protocol; it needs an API key.

    Raises:
        RuntimeError: if the judge gave no verdict, which must not count as a wrong answer.
    """
    from lmms_eval.tasks.activitynetqa import utils

    review, _ = utils.get_eval(doc["question"], doc["answer"], results[0], 64)
    verdict = utils.parse_score(review) if review else None
    if not verdict:
        raise RuntimeError(f"question {doc['question_id']!r}: the judge gave no verdict ({review[:80]!r})")
    return {
        "gpt_eval_accuracy": {
            "question_id": doc["question_id"],
            "Correctness": verdict[0],
            "score": verdict[1],
        }
    }


def judged_accuracy(results: list[dict[str, Any]]) -> float:
    """Percent of answers that the judge calls right."""
    return 100 * sum("yes" in result["Correctness"] for result in results) / len(results)
