"""Own rows as a task: answers scored if the rows have any, and in every case held against the dense model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from ...errors import SparseSightError
from ...hf.batch_report import batch_report
from ...hf.loading import GREEDY, Loaded
from ...hf.running import first_run, out_of_memory
from ...hf.sparsified import Sparsified
from ...hf.sparsify import sparsify
from ...methods import Method
from ...report import Latency, Report
from ..costs import SampleCost, dense_cost, sparse_cost
from ..image_task import PictureQuestions, prefill_clock
from ..metrics import Mean
from ..prompts import Prompts
from ..records import Answer, Item
from ..task import Answering
from .batches import Batches
from .near_ties import near_tie
from .rows import Row, make_item, unit_noun
from .scorers import Scorer, same
from .teacher import DenseAnswer, Forced, forced, forced_logits

SAME, LOST, RANK, KL = "same", "lost", "rank", "kl"
OF_DENSE = {SAME: 1.0, LOST: 0.0, RANK: 1.0, KL: 0.0}
LARGEST = 1e9


class OwnRows(PictureQuestions):
    """Rows for any model; a :class:`~..task.Task`.

    The dense model answers each row once. A method gets one forward over prompt and dense answer, and generates only
    where that forward says that it would answer with other tokens. Rows where two tokens are about as likely are asked
    alone, so that answers do not depend on the batch.

    Args:
        name: of the task.
        rows: what is asked.
        loaded, prompts, latency, trim_early_layers: as of :class:`~..image_task.PictureQuestions`; a timed prefill
            includes the dense answer's tokens, the dense model's own as well.
        max_new_tokens: longest answer.
        scorer: how right an answer is; None to score agreement with the dense model.

    Raises:
        SparseSightError: naming a row whose text holds the model's placeholder for pictures, or a chat for a model
            without a chat template.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        loaded: Loaded,
        prompts: Prompts,
        *,
        max_new_tokens: int = 32,
        latency: bool = False,
        trim_early_layers: bool = False,
        scorer: Scorer | None = None,
    ) -> None:
        _check_texts(rows, loaded)
        super().__init__(
            name,
            [make_item(row) for row in rows],
            loaded,
            prompts,
            max_new_tokens=max_new_tokens,
            latency=latency,
            trim_early_layers=trim_early_layers,
            scorer=scorer or same,
        )
        self.unit = unit_noun(rows)
        self.metric = Mean(SAME if scorer is None else "correct")
        self._scored = scorer is not None
        self._dense: dict[str, DenseAnswer] = {}
        self._batches = Batches(loaded.model, self._inputs)

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    @contextmanager
    def answering(self, method: Method | None) -> Iterator[Answering]:
        """See :class:`~..task.Task`."""
        if method is not None:
            with self._sparse(method):
                pass  # what the model refuses, it refuses now
        with prefill_clock(self._model.get_decoder(), self._latency) as spent:
            yield partial(self._say, method, spent)

    def score(self, answers: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """See :class:`~..task.Task`; agreement is scored with each answer."""
        return super().score(answers) if self._scored else {item.id: {} for item in self.items}

    def answers(self, items: Sequence[Item], method: Method | None) -> list[Answer]:
        """Answers of one batch, outside of :meth:`answering`.

        Raises:
            SparseSightError: if the model refuses the method.
        """
        return self._say(method, lambda: None, items)

    def whole_inputs(self, items: Sequence[Item]) -> dict[str, Any]:
        """Inputs of a batch on the model's device, pictures as pixels."""
        return self._batches.fresh(items, whole=True)

    def dense_answers(self, items: Sequence[Item]) -> list[DenseAnswer]:
        """What the dense model says; each row is asked once."""
        if not all(item.id in self._dense for item in items):
            with out_of_memory(self._model.device), first_run(self._loaded.name):
                said = self._generated(items, self._batches.inputs(items))
            self._dense.update({item.id: said[item.id] for item in items})
        return [self._dense[item.id] for item in items]

    def _say(
        self, method: Method | None, spent: Callable[[], float | None], items: Sequence[Item]
    ) -> list[Answer]:
        dense = self.dense_answers(items)
        tokens = [answer.tokens for answer in dense]
        with (
            nullcontext() if method is None else self._sparse(method) as run,
            out_of_memory(self._model.device),
        ):
            whole = method is not None and method.requires_vision
            inputs = self._batches.inputs(items, whole=whole)
            lengths = inputs["attention_mask"].sum(1).tolist()
            if run is None:
                if self._latency:
                    spent()
                    forced_logits(self._parts, inputs, tokens)
                ms = spent()
                return [
                    Answer(answer.text, cost, None if ms is None else ms / len(items), OF_DENSE)
                    for answer, cost in zip(dense, self._dense_costs(inputs), strict=True)
                ]
            spent()
            logits = forced_logits(self._parts, inputs, tokens)
            ms = spent()
            costs = self._costs(run, lengths)
            found = [forced(answer, x) for answer, x in zip(dense, logits, strict=True)]
            tied = [near_tie(x, self._model.dtype) for x in logits]
            other = [item for item, x, tie in zip(items, found, tied, strict=True) if not (x.follows or tie)]
            said = self._generated(other, whole=whole)
            for item in (item for item, tie in zip(items, tied, strict=True) if tie):
                said |= self._generated([item], whole=whole)
        share = None if ms is None else ms / len(items)
        answers = []
        for item, answer, x, cost in zip(items, dense, found, costs, strict=True):
            text = said[item.id].text if item.id in said else answer.text
            kept = 1.0 if item.id not in said else same(text, answer.text)
            answers.append(Answer(text, cost, share, _figures(x, kept)))
        return answers

    def _generated(
        self, items: Sequence[Item], inputs: dict[str, Any] | None = None, whole: bool = False
    ) -> dict[str, DenseAnswer]:
        """What the model, dense or sparsified as it is, says to items, by their ids; alone to those with near-ties.

        Args:
            items: the batch; may be empty.
            inputs: its; default: made.
            whole: with pixels, as of :meth:`Batches.inputs`.
        """
        if not items:
            return {}
        inputs = inputs or self._batches.fresh(items, whole=whole)
        width = inputs["input_ids"].shape[1]
        output = self._generate(inputs, output_logits=True, return_dict_in_generate=True)
        said: dict[str, DenseAnswer] = {}
        for row, item in enumerate(items):
            tokens = self._until_end(output.sequences[row, width:])
            logits = _stack([step[row] for step in output.logits[: len(tokens)]])
            if len(items) > 1 and near_tie(logits, self._model.dtype):
                said |= self._generated([item], whole=whole)
                continue
            text = self._prompts.processor.decode(tokens, skip_special_tokens=True).strip()
            said[item.id] = DenseAnswer.of(tokens, logits, text)
        return said

    def _generate(self, inputs: Any, **options: Any) -> Any:
        import torch

        pad = self._prompts.processor.tokenizer.pad_token_id
        with torch.inference_mode():
            return self._model.generate(
                **inputs, pad_token_id=pad, max_new_tokens=self._max_new_tokens, **GREEDY, **options
            )

    def _sparse(self, method: Method) -> Sparsified:
        tower = self._loaded.tower_for(method)
        return sparsify(
            self._model,
            method,
            text_tower=tower,
            turns=self._loaded.turns,
            trim_early_layers=self._trim,
        )

    def _until_end(self, tokens: Any) -> Any:
        """Generated tokens up to the end token and with it; padding comes after it."""
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        stop = next((i for i, token in enumerate(tokens.tolist()) if token in ends), len(tokens) - 1)
        return tokens[: stop + 1]

    def _dense_costs(self, inputs: Any) -> list[SampleCost]:
        from ...hf.prompt.inputs import prompt_sizes

        return [
            dense_cost(self._shape, x.visual, x.text + x.before)
            for x in prompt_sizes(inputs, self._parts.visual_ids)
        ]

    def _costs(self, run: Sparsified, lengths: Sequence[int]) -> list[SampleCost]:
        """Of the prompts alone: what was run also held the answers."""
        ran = run.report
        report: Report = batch_report(
            method=ran.method,
            shape=self._shape,
            layers=ran.layers,
            regions=[sample.regions for sample in ran.samples],
            length=lengths,
            width=max(lengths),
            past=[0] * len(self._shape.layers),
            latency=Latency(),
            trimmed=ran.trimmed,
            overhead=run.method.overhead,
        )
        return [sparse_cost(self._shape, sample, report) for sample in report.samples]

    def _inputs(self, items: Sequence[Item]) -> Any:
        conversations = []
        for item in items:
            try:
                conversations.append(self._prompts.conversation(item.request.messages()))
            except SparseSightError as error:
                raise SparseSightError(f"{self.name}, {item.request.where}: {error}") from None
        return self._prompts.inputs(conversations)


def _check_texts(rows: Sequence[Row], loaded: Loaded) -> None:
    processor = loaded.processor
    placeholder = getattr(processor, "image_token", None) or "<image>"
    for row in rows:
        texts = [x for _, content in row.turns for x in content if isinstance(x, str)]
        if any(placeholder in text for text in texts):
            raise SparseSightError(
                f"{row.where}: its text holds {placeholder!r}, which stands for a picture of this model: leave it out"
            )
        if len(row.turns) > 1 and not getattr(processor, "chat_template", None):
            raise SparseSightError(
                f"{row.where}: {loaded.name!r} has no chat template: ask one question per row"
            )


def _figures(x: Forced, kept: float) -> dict[str, float]:
    values = asdict(x)
    return {SAME: kept, **{name: min(float(values[name]), LARGEST) for name in (LOST, RANK, KL)}}


def _stack(logits: Sequence[Any]) -> Any:
    import torch

    return torch.stack(tuple(logits))
