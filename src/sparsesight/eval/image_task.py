"""Tasks of questions about pictures, answered by a loaded model without lmms-eval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from ..bench import PREFILL, Times, timed_decoder
from ..equal_cost import PromptSizes
from ..hf.decoder_shape import decoder_shape
from ..hf.loading import GREEDY, Loaded
from ..hf.model_parts import inspect_model
from ..hf.prompt.inputs import prompt_sizes
from ..hf.running import first_run, out_of_memory
from ..hf.sparsify import sparsify
from ..methods import Method
from .costs import batch_costs
from .metrics import Mean, Metric
from .prompts import Prompts
from .records import Answer, Item
from .task import Answering

Scorer = Callable[[str, Any], float]


def exact(answer: str, target: Any) -> float:
    """1 for the very words of the target."""
    return float(answer.strip() == target)


def pictures_of(request: Any) -> tuple[Any, ...]:
    """The pictures of an item, whose ``request`` is one or a tuple of several."""
    return request if isinstance(request, tuple) else (request,)


class PictureQuestions:
    """A task of items with a picture, or several, each; a :class:`~.task.Task`.

    Args:
        name: of the task.
        items: their ``request`` is a picture, a tuple of pictures in the order in which they are shown, or a callable
            that makes either when it is needed.
        loaded: the model that answers, greedily.
        prompts: makes its inputs.
        max_new_tokens: longest answer.
        latency: measure prefills; waits for the device around each.
        trim_early_layers: see :func:`sparsesight.sparsify`.
        scorer: how right an answer is, 0 to 1, by the item's target.

    Attributes:
        unit: see :class:`~.task.Task`.
    """

    unit = "question"

    def __init__(
        self,
        name: str,
        items: Sequence[Item],
        loaded: Loaded,
        prompts: Prompts,
        *,
        max_new_tokens: int = 8,
        latency: bool = False,
        trim_early_layers: bool = False,
        scorer: Scorer = exact,
    ) -> None:
        self.name, self.items = name, list(items)
        self.metric: Metric = Mean()
        self._loaded, self._model = loaded, loaded.model
        self._max_new_tokens, self._latency = max_new_tokens, latency
        self._parts = inspect_model(loaded.model)
        self._shape = decoder_shape(self._parts)
        self._prompts, self._trim = prompts, trim_early_layers
        self._scorer = scorer

    @contextmanager
    def answering(self, method: Method | None) -> Iterator[Answering]:
        """See :class:`~.task.Task`."""
        run = None
        if method is not None:
            tower = self._loaded.tower_for(method)
            run = sparsify(
                self._model,
                method,
                text_tower=tower,
                turns=self._loaded.turns,
                trim_early_layers=self._trim,
            )
        try:
            with prefill_clock(self._model.get_decoder(), self._latency) as spent:
                yield lambda items: self._answer(items, run, spent)
        finally:
            if run is not None:
                run.restore()

    def sizes(self, items: Sequence[Item]) -> list[PromptSizes]:
        """How long the prompts of items are."""
        with first_run(self._loaded.name):  # the vision tower runs here first
            return prompt_sizes(self._inputs(items), self._parts.visual_ids)

    def score(self, answers: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """See :class:`~.task.Task`."""
        return {item.id: {"correct": self._scorer(answers[item.id], item.target)} for item in self.items}

    def _answer(self, items: Sequence[Item], run: Any, spent: Callable[[], float | None]) -> list[Answer]:
        import torch

        pad = self._prompts.processor.tokenizer.pad_token_id
        dense = first_run(self._loaded.name) if run is None else nullcontext()
        with out_of_memory(self._model.device), dense:
            inputs = self._inputs(items).to(self._model.device, self._model.dtype)
            with torch.inference_mode():
                output = self._model.generate(
                    **inputs, pad_token_id=pad, max_new_tokens=self._max_new_tokens, **GREEDY
                )
        ms = spent()
        costs = batch_costs(self._shape, self._parts.visual_ids, inputs, run)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self._prompts.processor.batch_decode(new, skip_special_tokens=True)
        share = None if ms is None else ms / len(items)
        return [Answer(text.strip(), cost, share) for text, cost in zip(texts, costs, strict=True)]

    def _inputs(self, items: Sequence[Item]) -> Any:
        return self._prompts.inputs([self._prompts.conversation(_messages(item)) for item in items])


@contextmanager
def prefill_clock(decoder: Any, wanted: bool) -> Iterator[Callable[[], float | None]]:
    """Within it, the function returns the milliseconds of all prefills since its last call; None if not wanted."""
    if not wanted:
        yield lambda: None
        return
    times = Times()
    with timed_decoder(decoder, times) as fill:

        def spent() -> float:
            fill()
            total = sum(times.wall[PREFILL])
            for values in (*times.wall.values(), *times.cpu.values()):
                values.clear()
            return total

        yield spent


def _messages(item: Item) -> list[dict[str, Any]]:
    request = item.request() if callable(item.request) else item.request
    shown = [{"type": "image", "url": picture} for picture in pictures_of(request)]
    content = [*shown, {"type": "text", "text": item.question}]
    return [{"role": "user", "content": content}]
