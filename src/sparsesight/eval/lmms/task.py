"""The published benchmarks as tasks of a sweep, with lmms-eval's prompts and scorers.

A sweep answers the requests of lmms-eval's tasks in its own batches. When all requests of a task are answered,
``simple_evaluate`` scores them through a model that returns the stored answers.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms

from ...equal_cost import PromptSizes
from ...errors import SparseSightError
from ...hf.prompt.inputs import prompt_sizes
from ...methods import Method
from ..distributed import one_process
from ..image_task import prefill_clock
from ..metrics import AccuracyPlus, AllRight, Mean, MeanF1, Metric, Ratio
from ..records import Answer, Item, Sample
from ..task import Answering
from .benchmarks import Benchmark
from .model import SparseSightModel
from .registry import Resolved, harness_arguments, resolve

Logged = Mapping[str, Any]

# Benchmarks whose score is not a mean over questions, and what its units are, with the key of a document.
METRICS: dict[str, Metric] = {
    "pope": MeanF1(),
    "mme": AccuracyPlus(),
    "mmbench": AllRight(),
    "mmbench_cn": AllRight(),
    "llava_wild": Ratio(),
    "llava_coco": Ratio(),
}
UNITS: dict[str, tuple[str, Callable[[Logged], Any]]] = {
    "pope": ("picture", lambda document: document["image_source"]),
    "mme": ("picture", lambda document: f"{document['category']}/{document['question_id']}"),
    # One question in several orders of its options has indices that differ by whole millions.
    "mmbench": ("question", lambda document: int(document["index"]) % 1_000_000),
    "mmbench_cn": ("question", lambda document: int(document["index"]) % 1_000_000),
}
PARTS: dict[str, Callable[[Logged], str]] = {"mme": lambda document: str(document["category"])}
ROUNDED = {"llava_wild": 0.1, "llava_coco": 0.1}  # where lmms-eval's number has no more than one digit
EXACT = 5e-4


def harness_tasks(
    names: Sequence[str],
    model: SparseSightModel,
    *,
    data: Path | None,
    limit: int | None,
    latency: bool = False,
) -> list[HarnessTask]:
    """Benchmarks as tasks of a sweep.

    Args:
        names: as :func:`~.registry.resolve` takes them.
        model: the model that answers; its ``batch_size`` must not be below that of the sweep.
        data: folder of local copies; None: the Hub.
        limit: number of questions of each of lmms-eval's tasks; default: all.
        latency: measure prefills.

    Raises:
        SparseSightError: what :func:`~.registry.resolve` refuses, and benchmarks without a score per answer.
    """
    return [HarnessTask(resolve([name], data), model, limit, latency) for name in names]


class HarnessTask:
    """One benchmark; a :class:`~..task.Task`."""

    def __init__(
        self, resolved: Resolved, model: SparseSightModel, limit: int | None, latency: bool = False
    ) -> None:
        (self._row,) = resolved.benchmarks
        self._resolved, self._model, self._limit, self._latency = resolved, model, limit, latency
        self.name = self._row.name
        self.unit, self._unit_of = UNITS.get(self.name, ("question", lambda document: ""))
        self._key = next(iter(resolved.tasks[0].aggregation()))  # of a task that is in no table
        in_table = self._row.correct is not None
        self.metric = METRICS.get(self.name) or (Mean() if in_table else Mean(self._key, self._row.scale))
        self.items = [item for task in resolved.tasks for item in self._items(task)]

    @contextmanager
    def answering(self, method: Method | None) -> Iterator[Answering]:
        """See :class:`~..task.Task`."""
        self._model.use(method)
        try:
            with prefill_clock(self._model.decoder, self._latency) as spent:
                yield lambda items: self._answer(items, spent)
        finally:
            self._model.use(None)

    def sizes(self, items: Sequence[Item]) -> list[PromptSizes]:
        """How long the prompts of items are."""
        return prompt_sizes(self._model.prepare([item.request for item in items]), self._model.visual_ids)

    def score(self, answers: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """See :class:`~..task.Task`.

        Raises:
            SparseSightError: if lmms-eval's scorer or a judge fails, or its number is not what the samples add up to.
        """
        from lmms_eval.evaluator import simple_evaluate

        try:
            with tempfile.TemporaryDirectory() as folder, one_process(), _silence():
                results = simple_evaluate(
                    Repeater(answers),
                    tasks=self._resolved.tasks,
                    task_manager=self._resolved.manager,
                    limit=self._limit,
                    bootstrap_iters=0,
                    cli_args=harness_arguments(Path(folder)),
                    process_docs_parallel=1,
                    verbosity="ERROR",
                )
            # Of a part of the questions some of lmms-eval's numbers do not exist.
            official = self._row.score(results["results"]) if self._limit is None else None
        except Exception as error:  # a scorer's own code
            why = " ".join(str(error).split()) or type(error).__name__
            hint = "" if self._limit is None else "; leave out --limit, or give an even one"
            raise SparseSightError(f"task {self.name!r} cannot be scored ({why}){hint}") from error
        logged = {
            _id(task, sample["doc_id"]): sample
            for task, mine in results["samples"].items()
            for sample in mine
        }
        try:
            scores = {item.id: _scores(self._row, self._key, logged[item.id]) for item in self.items}
        except SparseSightError as error:
            raise SparseSightError(f"task {self.name!r}: {error}") from None
        if official is not None:
            self._check(official, scores)
        return scores

    def _items(self, task: Any) -> list[Item]:
        """The requests of one of lmms-eval's tasks."""
        name = task.config.task
        self._model.task_dict[name] = task.dataset
        with _silence():
            task.build_all_requests(limit=self._limit, rank=0, world_size=1)
        documents = task.eval_docs_no_media
        found = []
        for request in task.instances:
            if request.request_type != "generate_until" or request.repeats != 1:
                raise SparseSightError(
                    f"task {name!r} asks for {request.request_type!r}, {request.repeats} times: only answers that are "
                    "generated once can be compared"
                )
            document = documents[request.doc_id]
            part = PARTS.get(self.name)
            own_part = part(document) if part else name if len(self._resolved.tasks) > 1 else ""
            found.append(
                Item(
                    id=_id(name, request.doc_id),
                    question=str(request.args[0]),
                    target=_as_json(task.doc_to_target(document)),
                    unit=str(self._unit_of(document)),
                    part=own_part,
                    request=request,
                )
            )
        return found

    def _answer(self, items: Sequence[Item], spent: Callable[[], float | None]) -> list[Answer]:
        said = self._model.generate_until([item.request for item in items])
        ms = spent()
        share = None if ms is None else ms / len(items)
        costs = [self._model.costs[item.request.args[4], item.request.args[3]] for item in items]
        return [Answer(one.text, cost, share) for one, cost in zip(said, costs, strict=True)]

    def _check(self, official: float, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Our sums must give lmms-eval's score: intervals of another number would be worthless."""
        none: Any = {}
        samples = [Sample.of(item, Answer("", none), scores[item.id]) for item in self.items]
        ours = float(self.metric.value(self.metric.rows(samples).sum(0)))
        allowed = ROUNDED.get(self.name, EXACT * max(abs(official), 1))
        if abs(ours - official) > allowed:
            raise SparseSightError(
                f"task {self.name!r}: lmms-eval's number is {official:.3f}, the samples add up to {ours:.3f}; this "
                "version of lmms-eval counts differently, install 0.7.3"
            )


class Repeater(lmms):
    """A model that returns stored answers."""

    is_simple = False

    def __init__(self, answers: Mapping[str, str]) -> None:
        super().__init__()
        self._answers = answers
        self.accelerator = None  # or lmms-eval makes one

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answers by task and document."""
        return [self._answers[_id(request.args[4], request.args[3])] for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Never asked for."""
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Never asked for."""
        raise NotImplementedError

    def clean(self) -> None:
        """There is nothing to free."""


def _scores(row: Benchmark, key: str, logged: Logged) -> dict[str, float]:
    """What the benchmark's metric adds up, from one of lmms-eval's samples."""
    if row.name in ("llava_wild", "llava_coco"):
        entry = logged["gpt_eval_llava_all"]
        reference, model = map(float, entry["scores"])
        if not (reference >= 0 and model >= 0):  # lmms-eval writes -1 and adds it up
            raise _unjudged(row, logged, entry["review"])
        return {"model": model, "reference": reference}
    if (
        row.name == "mmvet" and not logged["gpt_eval_score"]["eval_model"]
    ):  # lmms-eval writes 0 and adds it up
        raise _unjudged(row, logged, "")
    if row.correct is None:
        value = logged.get(key)
        if not isinstance(value, int | float):
            raise SparseSightError(
                f"its metric {key!r} gives no number per answer, so that nothing can be compared"
            )
        return {key: float(value)}
    correct = float(row.correct(logged))
    if row.name != "pope":
        return {"correct": correct}
    entry = logged["pope_f1_score"]
    said, true = entry["prediction"], entry["ground_truth"]
    return {
        "correct": correct,
        "hit": float(said == true == "yes"),
        "false_alarm": float(said == "yes" and true == "no"),
        "missed": float(said == "no" and true == "yes"),
    }


def _unjudged(row: Benchmark, logged: Logged, review: str) -> SparseSightError:
    """For an answer on which the judge failed: it is neither right nor wrong."""
    said = f" (it said {review[:80]!r})" if review else ""
    return SparseSightError(
        f"the judge gave no score for {_id(row.tasks[0], logged['doc_id'])}{said}: see that it can be reached, then go "
        "on with --resume, which asks the judge again and the model only what is not answered"
    )


def _id(task: str, document: int) -> str:
    return f"{task}/{document:06d}"


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


@contextmanager
def _silence() -> Iterator[None]:
    """Hide lmms-eval's progress bars, one per cell; errors are raised all the same."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
