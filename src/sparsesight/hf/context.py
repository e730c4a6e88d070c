"""What callers say prompt by prompt: which tokens are visual, for models that put pictures into ``inputs_embeds``
themselves; what is asked, for methods that read a text tower; where the prompt ends, for plain forwards."""

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
    """Within it, and in this thread alone, prompts of ``model`` have their visual tokens where ``mask`` says.

    Put it around the call that takes ``inputs_embeds``::

        with visual_tokens(self, mask):
            return super().generate(inputs_embeds=embeds, attention_mask=attention_mask)

    It does nothing to a model that is not sparsified, so it may stay in a model's code. Where several are nested the
    innermost counts. The prompt must be as long as the mask; what comes after it (decoding, a later turn over the same
    cache) may have any length and brings no visual tokens. Beams and returned sequences repeat the mask.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder.
        mask: boolean [b, n] or [n], true on visual tokens; what the attention mask hides does not count. None for a
            prompt without any.
        frames: whole numbers in the shape of ``mask``: neighbouring visual tokens with different numbers are of
            different frames of a clip. Only needed for ``per_frame=True``, and for the report's counts per frame.

    Raises:
        SparseSightError: a mask or frames of another dtype or shape; at the prompt, if it has another size.
    """
    with _said(model, "given", VisualMaskSpec.of(mask, frames)):
        yield


@contextmanager
def questions(model: nn.Module, texts: str | Sequence[str]) -> Iterator[None]:
    """Within it, and in this thread alone, prompts of ``model`` ask this; for methods that read a text tower.

    ::

        with questions(model, ["What is on the sign?", "Who wears a hat?"]):
            output = model.generate(**inputs)

    Without it the question is read off the prompt, if the text tower was given the model's tokenizer. It does nothing
    to a model that is not sparsified. Where several are nested the innermost counts; beams repeat the question.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder.
        texts: one question for each sample of the batch, pictures or not; a string for a single sample.

    Raises:
        SparseSightError: something else than strings; at the prompt, another number of them than of samples.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    wrong = next((x for x in texts if not isinstance(x, str)), None)
    if wrong is not None:
        raise SparseSightError(f"questions: {wrong!r} is no text; give one string for each sample")
    with _said(model, "questions", texts):
        yield


@contextmanager
def prompt_ends(model: nn.Module, ends: int | Sequence[int] | Tensor) -> Iterator[None]:
    """Within it, and in this thread alone, plain forwards of ``model`` have their answers where ``ends`` says.

    A forward over prompt and answer then keeps what it keeps for the prompt alone: the answer judges nothing. Labels
    say the same, and are overruled by this; ``generate()`` knows its prompt, and takes no notice. For losses and scores
    that are computed from logits::

        with prompt_ends(model, completion_mask.int().argmax(1)):
            logits = model(**inputs).logits

    It does nothing to a model that is not sparsified. Where several are nested the innermost counts.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder.
        ends: column of the input at which the answer begins, padding counted: int64 [b], or one number for all samples;
            a negative one counts from the end, such as ``-answer.shape[1]``.

    Raises:
        SparseSightError: something else than whole numbers; at the forward, one that is not a column of its input, or
            another number of them than of samples.
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
