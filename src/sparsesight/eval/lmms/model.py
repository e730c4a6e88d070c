"""The model for lmms-eval: dense or sparsified, loaded once, batched, with the cost of every sample."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from inspect import signature
from itertools import groupby
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from ... import sparsify
from ...core.retain import parse_retain
from ...errors import SparseSightError
from ...hf.decoder_shape import decoder_shape
from ...hf.loading import Loaded, load_model
from ...hf.model_parts import inspect_model
from ...hf.running import first_run, out_of_memory
from ...hf.sparsified import Sparsified
from ...methods import Method, make_method, parse
from ...suggestions import did_you_mean
from ..costs import SampleCost, batch_costs
from ..prompts import Prompts, choose_setting, pictures_in

MAX_NEW_TOKENS = 128  # for tasks that do not say; LLaVA-1.5's own scripts for short answers use as many
OnSample = Callable[[str, int, SampleCost], None]


class SparseSightModel(lmms):
    """A chat model for lmms-eval, ``--model sparsesight``.

    All arguments may be strings, as ``simple_evaluate(model_args="pretrained=...,method=...")`` gives them.

    Args:
        pretrained: folder, Hub id, or a model of the package: "bundled" or "smol".
        method: "dense", or a method as :func:`sparsesight.methods.parse` reads it.
        retain: budget of a method that is given by its name alone: 64, 0.33, 33%, or counts per stage, which are
            written 300/200/110 here, because lmms-eval splits its arguments at commas.
        batch_size: samples per forward.
        device, dtype, trust_remote_code: as ``sparsesight ask``.
        prompts: how the checkpoint is asked: "own", "llava-1.5" or "auto" (:func:`~.prompts.choose_setting`).
        frames: frames shown of a clip.
        on_sample: called with (task, doc_id, cost) as soon as a sample has been answered.
        trim_early_layers: see :func:`sparsesight.sparsify`.
        text_tower: folder or Hub id of a CLIP, for methods that read its text tower.

    Attributes:
        costs: (task, doc_id) -> cost of all samples since the last :meth:`use`.
        method: the method in use, or None.

    Raises:
        SparseSightError: an argument that is unknown or makes no sense; what :func:`load_model` and
            :func:`sparsify` refuse.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "bundled",
        method: str = "dense",
        retain: str | int | float | None = None,
        batch_size: int | str = 1,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        prompts: str = "auto",
        frames: int | str = 8,
        on_sample: OnSample | None = None,
        trim_early_layers: bool = False,
        text_tower: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            near = did_you_mean(min(unknown), list(signature(type(self)).parameters))
            raise SparseSightError(
                f"model_args {sorted(unknown)} are unknown to the model 'sparsesight'{near}"
            )
        chosen = parse_method(str(method), retain)
        self.batch_size = _count("batch_size", batch_size)
        frames = _count("frames", frames)
        asked = choose_setting(str(prompts), str(pretrained))
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            device = str(self.accelerator.device) if device == "auto" else device
        loaded = load_model(str(pretrained), str(device), str(dtype), trust_remote_code, text_tower)
        self._loaded = loaded
        self.name = loaded.name
        self.setting = asked
        self.on_sample, self.trim_early_layers = on_sample, trim_early_layers
        self.costs: dict[tuple[str, int], SampleCost] = {}
        self.method: Method | None = None
        self._model = loaded.model
        self._parts = inspect_model(loaded.model)
        self._shape = decoder_shape(self._parts)
        clips = getattr(loaded.processor, "video_processor", None) is not None
        self._prompts = Prompts(loaded.processor, asked, frames, clips)
        self._run: Sparsified | None = None
        self.use(chosen)

    @property
    def device(self) -> Any:
        return self._model.device

    @property
    def decoder(self) -> Any:
        return self._parts.decoder

    @property
    def loaded(self) -> Loaded:
        """The model and its processor, which is set up for :attr:`setting`."""
        return replace(self._loaded, processor=self._prompts.processor)

    @property
    def prompts(self) -> Prompts:
        return self._prompts

    @property
    def visual_ids(self) -> tuple[int, ...]:
        return self._parts.visual_ids

    def prepare(self, requests: Sequence[Instance]) -> Any:
        """What the model is given for requests, as one batch."""
        return self._prompts.inputs([self._conversation(request) for request in requests])

    def use(self, method: Method | None) -> None:
        """Answer from now on with this method, or dense; forgets the costs so far.

        Raises:
            SparseSightError: what :func:`sparsesight.sparsify` refuses; the model is then dense.
        """
        if self._run is not None:
            self._run.restore()
        self._run, self.method, self.costs = None, None, {}
        if method is not None:
            self._run = sparsify(
                self._model,
                method,
                text_tower=self._loaded.tower_for(method),
                turns=self._loaded.turns,
                trim_early_layers=self.trim_early_layers,
            )
            self.method = method

    def clean(self) -> None:
        """Keep the model: lmms-eval calls this after each run, and deletes every module by default."""

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Greedy answers, in the order of the requests.

        Raises:
            SparseSightError: if one cannot be answered; it names the task and its documents.
        """
        results: list[GenerationResult | None] = [None] * len(requests)
        for batch in self._batches(requests):
            for index, result in zip(batch, self._answer([requests[i] for i in batch]), strict=True):
                results[index] = result
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise SparseSightError(
            _no_such(requests, "scores likelihoods: use its variant that generates answers")
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise SparseSightError(_no_such(requests, "talks in several rounds, which 'sparsesight' does not"))

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[int]]:
        """Indices of requests that may be generated together: same task, same generation options."""

        def key(index: int) -> tuple[str, str]:
            return requests[index].args[4], json.dumps(requests[index].args[2], sort_keys=True, default=str)

        for _, group in groupby(sorted(range(len(requests)), key=key), key):
            indices = list(group)
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]

    def _answer(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        _, _, options, _, task, _ = requests[0].args
        documents = [request.args[3] for request in requests]
        try:
            turns = [self._conversation(request) for request in requests]
            results: dict[int, GenerationResult] = {}
            # Processors differ in how they take a batch in which some samples show no picture.
            by_pictures: Any = sorted(range(len(turns)), key=lambda i: pictures_in(turns[i]) > 0)
            for _, group in groupby(by_pictures, lambda i: pictures_in(turns[i]) > 0):
                indices = list(group)
                answers = self._generate([turns[i] for i in indices], options)
                for index, (result, cost) in zip(indices, answers, strict=True):
                    results[index] = result
                    self._remember(requests[index], cost)
            return [results[i] for i in range(len(requests))]
        except Exception as error:  # whatever a task's, a checkpoint's or a processor's own code raises
            why = " ".join(str(error).split()) or type(error).__name__
            raise SparseSightError(f"task {task!r}, documents {documents}: {why}") from error

    def _conversation(self, request: Instance) -> list[dict[str, Any]]:
        _, to_messages, _, document, task, split = request.args
        return self._prompts.conversation(to_messages(self.task_dict[task][split][document]))

    def _generate(
        self, turns: list[list[dict[str, Any]]], options: dict[str, Any]
    ) -> list[tuple[GenerationResult, SampleCost]]:
        import torch

        how, stops = generation_options(options)
        inputs = self._prompts.inputs(turns).to(self.device, self._model.dtype)
        pad = self._prompts.processor.tokenizer.pad_token_id
        dense = first_run(self.loaded.name) if self._run is None else nullcontext()
        with out_of_memory(self.device), dense, torch.inference_mode():
            output = self._model.generate(**inputs, pad_token_id=pad, **how)
        costs = batch_costs(self._shape, self._parts.visual_ids, inputs, self._run, how["num_beams"])
        results = []
        for row, cost in zip(output[:, inputs["input_ids"].shape[1] :], costs, strict=True):
            text = self._prompts.processor.decode(row, skip_special_tokens=True)
            for stop in stops:
                text = text.split(stop)[0]
            written = int((row != pad).sum())
            results.append((GenerationResult(text.strip(), TokenCounts(output_tokens=written)), cost))
        return results

    def _remember(self, request: Instance, cost: SampleCost) -> None:
        _, _, _, document, task, _ = request.args
        if request.metadata.get("__padding_only__"):  # a copy that evens out the ranks; nobody scores it
            return
        self.costs[task, document] = cost
        if self.on_sample is not None:
            self.on_sample(task, document, cost)


def parse_method(name: str, retain: str | int | float | None) -> Method | None:
    """A method from what a user wrote; None for "dense".

    Raises:
        SparseSightError: unknown method, a budget that makes no sense, or one for the dense model.
    """
    if name == "dense":
        if retain is not None:
            raise SparseSightError(f"retain={retain!r} goes with a method: leave it out, or choose one")
        return None
    if retain is None:
        return parse(name)
    return make_method(name, retain=parse_retain(str(retain).replace("/", ","), "retain"))


def generation_options(task: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What ``generate()`` is given for a task's ``generation_kwargs``, and the strings at which an answer is cut.

    Greedy: a temperature is not used unless the task says ``do_sample``. lmms-eval adds the blank line to the stops of
    every task that names none, which would cut long answers at their first paragraph; it is not used.

    Raises:
        SparseSightError: if the task asks for sampling.
    """
    if task.get("do_sample"):
        raise SparseSightError(
            "it asks for sampling (do_sample: true), and answers are greedy: set it to false"
        )
    stops = task.get("until") or []
    stops = [stops] if isinstance(stops, str) else list(stops)
    how: dict[str, Any] = {
        "max_new_tokens": int(task.get("max_new_tokens") or MAX_NEW_TOKENS),
        "do_sample": False,
        "num_beams": int(task.get("num_beams") or 1),
        # A checkpoint's own generation config may name these for sampling.
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    return how, [stop for stop in stops if stop.strip()]


def _count(name: str, value: int | str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise SparseSightError(f"{name}={value!r}: give a whole number from 1")
    return number


def _no_such(requests: Sequence[Instance], why: str) -> str:
    return f"task {requests[0].task_name!r} {why}"
