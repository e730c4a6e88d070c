"""lmms-eval's registered metrics as judges of one answer.

lmms-eval registers two forms: functions of references and predictions, and passthroughs whose aggregation judges all
pairs of reference and prediction together. Its registry says neither which form a metric has, nor its scale, nor what
it needs, and calls `ter`, an error rate, better where it is higher. So all of this is found out on two sentences: a
judge of texts tells an equal answer from a wholly different one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from ...errors import SparseSightError, brief, reason
from ...suggestions import did_you_mean

Judge = Callable[[str, str], float]
NAMED = (
    "anls",
    "exact_match",
    "bleu",
    "chrf",
    "ter",
    "relaxed_accuracy",
)  # for messages: known to judge answers
RELAXED = "relaxed_accuracy"  # of a task, ChartQA: the registry does not have it
EQUAL = "one red car stands left of the old house"  # long enough for n-grams
OTHER = "nobody knows when tomorrow's boats might finally arrive here"


def lmms_metric(name: str, others: Sequence[str] = ()) -> Judge:
    """A metric of lmms-eval as a function of answer and target, from 0 to 1, larger where the answer is better.

    Args:
        name: in its registry; or ``"relaxed_accuracy"``.
        others: names that the user may have meant as well.

    Raises:
        SparseSightError: lmms-eval missing, no metric of that name, or one that cannot judge a single answer.
    """
    if find_spec("lmms_eval") is None:
        raise SparseSightError(
            f"--score {name!r} is lmms-eval's, which is not installed: pip install 'sparsesight[eval]'"
        )
    from lmms_eval.api import metrics  # noqa: F401 (registers them)
    from lmms_eval.api.registry import METRIC_AGGREGATION_REGISTRY, METRIC_REGISTRY

    if name == RELAXED:
        from lmms_eval.tasks.chartqa.utils import relaxed_correctness

        return lambda answer, target: float(relaxed_correctness(answer.strip(), target.strip()))
    if name not in METRIC_REGISTRY:
        near = did_you_mean(name, (*others, *NAMED, *METRIC_REGISTRY))
        raise SparseSightError(
            f"--score {brief(name)} is no metric that lmms-eval registers{near}. "
            "What its tasks compute from their own documents comes with the task: --tasks NAME"
        )
    judge, why = None, ""
    for form in (_of_function(name, METRIC_REGISTRY[name]), _of_pairs(METRIC_AGGREGATION_REGISTRY.get(name))):
        try:
            equal, other = form(EQUAL, EQUAL), form(OTHER, EQUAL)
        except Exception as error:  # whatever a function does with inputs that it was not made for
            why = why or reason(error)
            continue
        if equal != other:
            judge = _scaled(form, equal, other)
            break
    if judge is None:
        raise SparseSightError(
            f"--score {name!r}: this metric of lmms-eval does not judge one answer by its text; it needs "
            f"likelihoods, classes or many rows at once{f' ({why})' if why else ''}. Choose {', '.join(NAMED)}"
        )
    return judge


def _of_function(name: str, function: Callable[..., Any]) -> Judge:
    def judge(answer: str, target: str) -> float:
        found = function(references=[target], predictions=[answer])
        return float(found[name] if isinstance(found, dict) else found)

    return judge


def _of_pairs(aggregate: Callable[..., Any] | None) -> Judge:
    def judge(answer: str, target: str) -> float:
        if aggregate is None:
            raise ValueError("it has no aggregation")
        return float(aggregate([(target, answer)]))

    return judge


def _scaled(form: Judge, equal: float, other: float) -> Judge:
    """To 1 for an equal answer. The scale is 1 or 100, whichever the larger of both values shows."""
    scale = 100.0 if max(equal, other) > 1 else 1.0
    rising = equal > other

    def judge(answer: str, target: str) -> float:
        share = form(answer, target) / scale
        return min(max(share if rising else 1 - share, 0.0), 1.0)

    return judge
