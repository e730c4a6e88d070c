"""Answers of a loaded model as they are generated, dense and sparse, with their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.generation.streamers import BaseStreamer

from ..bench.cases import first_prompt, make_cases
from ..compare import Pruned, prepare, pruned
from ..errors import SparseSightError
from ..hf.decoder_shape import decoder_shape
from ..hf.loading import Loaded
from ..hf.model_parts import inspect_model
from ..hf.running import first_run, out_of_memory
from ..hf.sparsify import sparsify
from ..methods import Method
from .running import OneThread, Put, interruptible

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PROMPT = 32_768  # tokens; less if the model's context is shorter
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # the end of a text whose last character still lacks tokens


@dataclass(frozen=True)
class StreamedAnswer:
    """An answer so far.

    Attributes:
        text: without special tokens.
        tokens: how many there are, special ones included.
        pruned: what was kept and what it cost, once a sparse answer is complete.
        method: None for the dense model.
        done: whether the answer is complete.
    """

    text: str = ""
    tokens: int = 0
    pruned: Pruned | None = None
    method: Method | None = None
    done: bool = False


class Engine:
    """A model that answers one question at a time, in a thread of its own.

    Args:
        loaded: the model.
        max_new_tokens: longest answer.
    """

    def __init__(self, loaded: Loaded, max_new_tokens: int = 64) -> None:
        self.loaded, self.max_new_tokens = loaded, max_new_tokens
        self._parts = inspect_model(loaded.model)
        self._shape = decoder_shape(self._parts)
        self._thread = OneThread()

    def ask(
        self,
        picture: Image,
        question: str,
        method: Method | None,
        stop: Event,
        equal_to: int | None = None,
    ) -> Iterator[StreamedAnswer | None]:
        """Answer greedily, and yield the answer so far whenever it grows; None when a while has passed.

        Args:
            picture, question: the question and the picture it is about.
            method: None asks the dense model.
            stop: ends the run when it is set.
            equal_to: the method is given the budget whose prefill costs what SparseVLM+ costs at ``retain=equal_to``
                (:func:`sparsesight.equal_cost.fit`), in place of its own.

        Raises:
            Stopped: if it was stopped.
            SparseSightError: as :func:`~sparsesight.compare.prepare`, and what
                :func:`sparsesight.sparsify` refuses.
        """

        def work(put: Put[StreamedAnswer]) -> None:
            self._answer(picture, question, method, equal_to, stop, put)

        return self._thread.stream(work, stop)

    def visual_tokens(self, picture: Image) -> int:
        """How many visual tokens a picture gives. Also runs the model once, as the first run is the slowest.

        Raises:
            SparseSightError: if the model cannot be asked about a picture.
        """
        inputs = prepare(self.loaded, picture, "What is this?")
        count = first_prompt(self.loaded.model, inputs).visual
        with out_of_memory(self.loaded.model.device), first_run(self.loaded.name):
            self._generate(inputs, 1)
        return count

    def close(self) -> None:
        self._thread.close()

    def _answer(
        self,
        picture: Image,
        question: str,
        method: Method | None,
        equal_to: int | None,
        stop: Event,
        put: Put[StreamedAnswer],
    ) -> None:
        model = self.loaded.model
        with ExitStack() as stack:
            stack.enter_context(out_of_memory(model.device))
            stack.enter_context(interruptible(_layers(model), stop))
            inputs = prepare(self.loaded, picture, question)
            self._check_length(inputs)
            if method is not None and equal_to is not None:
                sizes = first_prompt(model, inputs)
                cases = make_cases(
                    {method.name: method}, [equal_to], self._shape, sizes, self._parts.prunable
                )
                method = cases[0].method
            run = None
            if method is not None:
                run = stack.enter_context(sparsify(model, method, turns=self.loaded.turns))
            streamer = Streamer(self.loaded.processor, lambda speech: put(replace(speech, method=method)))
            self._generate(inputs, self.max_new_tokens, streamer)
            last = streamer.speech(complete=True)
            found = None if run is None else pruned(run, picture, self.loaded, inputs)
            put(replace(last, method=method, pruned=found, done=True))

    def _check_length(self, inputs: Any) -> None:
        """Refuse a prompt that would block the model for other users."""
        length = inputs["input_ids"].shape[-1]
        context = (
            getattr(self.loaded.model.get_decoder().config, "max_position_embeddings", None) or MAX_PROMPT
        )
        limit = min(MAX_PROMPT, context)
        if length > limit:
            raise SparseSightError(
                f"the picture and the question are {length:,} tokens, more than the limit of {limit:,}: ask something "
                "shorter, or of a smaller picture"
            )

    def _generate(self, inputs: Any, max_new_tokens: int, streamer: Streamer | None = None) -> None:
        with torch.inference_mode():
            self.loaded.model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, streamer=streamer
            )


def _layers(model: nn.Module) -> list[nn.Module]:
    """All layers of a model, including those of its vision tower."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [layer for layers in lists for layer in layers]


class Streamer(BaseStreamer):  # type: ignore[misc, unused-ignore]
    """Reports the text of tokens; transformers' own text streamer holds words back until they are complete.

    ``generate()`` gives it the prompt first, then every token, once it is on the host.
    """

    def __init__(self, processor: Any, tell: Callable[[StreamedAnswer], None]) -> None:
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tell = tell
        self._ids: list[int] | None = None

    def put(self, value: torch.Tensor) -> None:
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        self._tell(self.speech())

    def end(self) -> None:
        pass

    def speech(self, complete: bool = False) -> StreamedAnswer:
        """The answer so far."""
        ids = self._ids or []
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return StreamedAnswer(text.strip() if complete else text.lstrip().rstrip(INCOMPLETE), len(ids))
