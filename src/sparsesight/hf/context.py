"""Context managers that describe the next prompt: which tokens are visual, for models that put pictures into
``inputs_embeds`` themselves; the question, for methods with a text tower; the end of the prompt, for plain forwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import SparseSightError
from .prompt.answers import PromptEnds
from .prompt.visual_mask import VisualMaskSpec
from .restore import installed_hooks


@contextmanager
def visual_tokens(model: nn.Module, mask: Tensor | None, frames: Tensor | None = None) -> Iterator[None]:
    """Set the visual tokens of the prompts of ``model`` to ``mask``, within the context and the current thread.

    Put it around the call that takes ``inputs_embeds``::

        with visual_tokens(self, mask):
            return super().generate(inputs_embeds=embeds, attention_mask=attention_mask)

    It does nothing if the model is not sparsified, so it may stay in a model's code. If several are nested, the
    innermost counts. The prompt must be as long as the mask; later forwards (decoding, a later turn over the same
    cache) may have any length and have no visual tokens. Beams and returned sequences repeat the mask.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder.
        mask: boolean [b, n] or [n], true at visual tokens; positions hidden by the attention mask are ignored. None for
            a prompt without visual tokens.
        frames: integers in the shape of ``mask``: adjacent visual tokens with different numbers belong to different
            frames of a clip. Only needed for ``per_frame=True``, and for the report's counts per frame.

    Raises:
        SparseSightError: a mask or frames of another dtype or shape; at the prompt, a mask of another size.
    """
    with _said(model, "given", VisualMaskSpec.of(mask, frames)):
        yield


@contextmanager
def questions(model: nn.Module, texts: str | Sequence[str]) -> Iterator[None]:
    """Set the questions of the prompts of ``model``, within the context and the current thread, for methods that use a
    text tower.

    ::

        with questions(model, ["What is on the sign?", "Who wears a hat?"]):
            output = model.generate(**inputs)

    Without it the question is read from the prompt, if the text tower has the model's tokenizer. It does nothing if the
    model is not sparsified. If several are nested, the innermost counts; beams repeat the question.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder.
        texts: one question per sample of the batch, with or without pictures; a string for a single sample.

    Raises:
        SparseSightError: anything but strings; at the prompt, a number of them that differs from the batch size.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    wrong = next((x for x in texts if not isinstance(x, str)), None)
    if wrong is not None:
        raise SparseSightError(f"questions: {wrong!r} is no text; give one string for each sample")
    with _said(model, "questions", texts):
        yield


@contextmanager
def prompt_ends(model: nn.Module, ends: int | Sequence[int] | Tensor) -> Iterator[None]:
    """Set the end of the prompt in plain forwards of ``model``, within the context and the current thread.

    A forward over prompt and answer then keeps the same tokens as for the prompt alone: the answer does not select
    tokens. This overrides the end that labels imply; ``generate()`` knows its prompt and ignores it. For losses and
    scores that are computed from logits::

        with prompt_ends(model, completion_mask.int().argmax(1)):
            logits = model(**inputs).logits

    It does nothing if the model is not sparsified. If several are nested, the innermost counts.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder.
        ends: column of the input at which the answer begins, including padding: int64 [b], or one number for all
            samples; a negative one counts from the end, such as ``-answer.shape[1]``.

    Raises:
        SparseSightError: anything but integers; at the forward, one that is not a column of its input, or a number of
            them that differs from the batch size.
    """
    with _said(model, "ends", PromptEnds.of(ends)):
        yield


@contextmanager
def _said(model: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Within it the hooks on ``model`` find ``value`` under this name in their thread."""
    hooks = installed_hooks(model)
    if not hooks:
        yield
        return
    call = hooks[0].call
    outer = getattr(call, name)
    setattr(call, name, value)
    try:
        yield
    finally:
        setattr(call, name, outer)
