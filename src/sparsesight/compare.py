"""Runs a model dense and sparse on one question about one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checkpoint_limits import apply_template, check_prompt, making_prompt
from .errors import SparseSightError
from .hf.loading import GREEDY, Loaded
from .hf.running import first_run, out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from .core.record import StageRecord
    from .hf.sparsified import Sparsified
    from .methods import Method
    from .report import Report
    from .viz import Look

PLAIN_PROMPT = "USER: {image}\n{question} ASSISTANT:"  # LLaVA-1.5's, for processors without a chat template


@dataclass(frozen=True)
class ModelAnswer:
    """A model's answer; one run tells nothing about time, so that :mod:`sparsesight.bench` measures it."""

    answer: str
    tokens: int  # of the answer, the end token included


@dataclass(frozen=True)
class Pruned:
    """The tokens that the prefill of one prompt kept, and its cost.

    Attributes:
        stages: what each stage did; empty if the prefill ran dense.
        look: for drawing; None if there was no picture, or if this model's tokens cannot be placed on it.
        why_not: the reason why there is no look.
    """

    report: Report
    stages: list[StageRecord]
    look: Look | None = None
    why_not: str = ""

    @property
    def kept(self) -> list[list[int]]:
        """Per stage, indices of the kept visual tokens."""
        return [stage.kept.nonzero()[0].tolist() for stage in self.stages]

    @property
    def merged(self) -> list[int]:
        """Per stage, the number of merged tokens in addition."""
        return [int(stage.centre.sum()) for stage in self.stages]


@dataclass(frozen=True, kw_only=True)
class Comparison(Pruned):
    """The same question with and without sparsification."""

    dense: ModelAnswer
    sparse: ModelAnswer

    @property
    def agree(self) -> bool:
        return self.dense.answer == self.sparse.answer

    @property
    def headline(self) -> str:
        """Whether the answers agree and what was saved, in one line."""
        return f"{'same' if self.agree else 'different'} answer; {self.report.headline}"


def prepare(loaded: Loaded, image: Image, question: str) -> Any:
    """Model inputs for one picture and one question, on the model's device.

    Raises:
        SparseSightError: the question is empty or contains the model's picture placeholder, or the checkpoint's chat
            template or processor cannot make a prompt of it.
    """
    processor = loaded.processor
    placeholder = getattr(processor, "image_token", None) or "<image>"
    if not question.strip():
        raise SparseSightError("the question is empty: ask something about the picture")
    if placeholder in question:
        raise SparseSightError(
            f"the question contains {placeholder!r}, which stands for the picture: leave it out"
        )
    try:
        if getattr(processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            inputs = apply_template(
                processor,
                [{"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            text = PLAIN_PROMPT.format(image=placeholder, question=question)
            with making_prompt():
                inputs = processor(text=text, images=image, return_tensors="pt")
            check_prompt(inputs, [1])
    except SparseSightError as error:
        raise SparseSightError(f"model {loaded.name!r}: {error}") from error
    return inputs.to(loaded.model.device, loaded.model.dtype)


def compare(
    loaded: Loaded, inputs: Any, method: Method, max_new_tokens: int, picture: Image | None = None
) -> Comparison:
    """Answer greedily, dense and sparse.

    With the ``picture`` the result has a look for drawing.

    Raises:
        SparseSightError: anything that :func:`sparsesight.sparsify` refuses, a budget that this picture cannot meet,
            too little memory.
    """
    from . import sparsify

    model = loaded.model
    with out_of_memory(model.device):
        with first_run(loaded.name):
            dense = _generate(loaded, inputs, max_new_tokens)
        with sparsify(model, method, turns=loaded.turns) as run:
            sparse = _generate(loaded, inputs, max_new_tokens)
    found = pruned(run, picture, loaded, inputs)
    return Comparison(**vars(found), dense=dense, sparse=sparse)


def pruned(
    run: Sparsified, picture: Image | None = None, loaded: Loaded | None = None, inputs: Any = None
) -> Pruned:
    """The tokens that the last prefill of one prompt kept; with a look if the picture and the prompt are given."""
    look, why_not = (None, "no picture was given") if picture is None else _look(run, picture, loaded, inputs)
    return Pruned(run.report, run.choices(), look, why_not)


def _look(run: Sparsified, picture: Image, loaded: Loaded | None, inputs: Any) -> tuple[Look | None, str]:
    from . import viz

    try:
        return viz.look(run, picture, None if loaded is None else loaded.processor, inputs), ""
    except SparseSightError as error:
        return None, str(error)


def _generate(loaded: Loaded, inputs: Any, max_new_tokens: int) -> ModelAnswer:
    """The greedy answer."""
    import torch

    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, **GREEDY)
    new = output[0, inputs["input_ids"].shape[1] :]
    return ModelAnswer(loaded.processor.decode(new, skip_special_tokens=True).strip(), len(new))
