"""``sparsify()``, and context managers that describe the next prompt: which tokens are visual, for models that put
pictures into ``inputs_embeds`` themselves; the question, for methods with a text tower; the end of the prompt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..core.turns import Marker, Turns
from ..errors import SparseSightError
from ..method_names import DEFAULT
from ..methods import Method, make_method
from ..settings import read_settings
from .compiled.options import Fast
from .install import installed_hooks
from .prompt.answers import PromptEnds
from .prompt.visual_mask import VisualMask, VisualMaskSpec
from .sparsified import Sparsified
from .vision.text_tower import TextTower

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..core.budget import Retain
    from ..method_names import MethodName, MethodOptions


def sparsify(
    model: nn.Module,
    method: Method | MethodName = DEFAULT,
    *,
    retain: Retain | None = None,
    settings: str | os.PathLike[str] | None = None,
    visual_mask: VisualMask | None = None,
    text_tower: TextTower | None = None,
    processor: Any = None,
    turns: Turns | Marker | Iterable[Marker] | None = None,
    trim_early_layers: bool = False,
    timing: bool = False,
    trace: bool = False,
    fast: Fast | bool | str = False,
    encode_once: bool = False,
    **options: Unpack[MethodOptions],
) -> Sparsified:
    """Make a vision-language model drop visual tokens before and between its decoder layers, guided by the question.

    Takes effect at once and until :meth:`Sparsified.restore`, or as a context manager::

        with sparsify(model, retain=64) as run:
            output = model.generate(**inputs)
        print(run.report)

    In every mode of ``generate()`` the end of the prompt is known. In a plain forward it is given by
    :func:`prompt_ends`, or by the first label after the sample's last picture. Without either, and if every token has a
    label, all text after the picture is the question. Labels that would be predicted from dropped tokens are ignored,
    with a warning that counts them.

    Args:
        model: a transformers vision-language model (the one whose ``generate()`` is called; PEFT's wrapper is fine),
            or any transformers decoder together with ``visual_mask``.
        method: a :class:`~sparsesight.methods.Method`, or the name of one (then ``retain`` and ``options`` are its
            fields). Default: :class:`~sparsesight.methods.Halves`. For type checkers, pass a name that is only known at
            run time through ``methods.make_method``.
        retain: the budget: average visual tokens per layer (int), a ratio in (0, 1], or counts per stage (tuple).
            Default: the method's own.
        settings: a settings file (:mod:`sparsesight.settings`) with the method and its budget, instead of ``method``,
            ``retain`` and ``options``.
        visual_mask: the positions of visual tokens, for models that get only ``inputs_embeds``: ``"per call"`` if every
            call sets them with :func:`visual_tokens`; a boolean [b, n] or [n] if they are the same in all prompts; or a
            callable that finds them in the embeddings [b, n, c]. Default: the model's placeholder ids.
        text_tower: for methods that compare the question with the patches of the vision tower, such as
            ``CDPruner.published()``: the text tower that the vision tower was trained with.
        processor: the model's processor or tokenizer, whose chat template shows how a user's turn ends: with its
            generation prompt. The visual tokens of a picture are then scored by the text of its own turn, and each turn
            has its own budget, so that a chat sent as a whole gives the same result as turn by turn over a kept cache.
            If only template text follows a picture, the user's text before it in the same turn scores it: the queries
            of these tokens are compared with the picture's keys as if the mask allowed it.
        turns: the same without a chat template, or instead of it: the end of a user's turn, as text (with the
            ``processor``), a token id or a sequence of ids, several in a list; or :class:`Turns`. Without both, and
            with ``judged_by="prompt"``, as published, all text after the last picture scores all pictures.
        trim_early_layers: after the prefill, also remove the tokens that the first stage dropped from the caches of the
            layers before it, so that no layer caches more visual tokens than leave the first stage. Text and all
            positions stay. In those layers, decoding then attends to fewer tokens than the prompt did; for a merged
            token they keep the key of its cluster centre.
        timing: measure prefill and decode latency for the report; synchronises the device around every forward.
        trace: keep the input and the decision of every stage of the last prefill in :attr:`Sparsified.trace`; this
            takes much memory.
        fast: run the layers between two stages as one program of a fixed shape if possible, for prompts so short that
            Python takes longer than the device: True, a runner's name, or :class:`Fast`. The first prefill of each
            length is slow; :attr:`Sparsified.fast` reports the result.
        encode_once: let the vision tower encode equal tiles, pictures and frames of a prompt once, such as white tiles
            of a document, a picture that several samples of a batch ask about, or a clip that stands still. Exact up to
            rounding. A tower that does not encode them separately encodes all, as without it.
            :attr:`Sparsified.encoded` counts.
        **options: further fields of the method, such as ``layers=(2, 6, 15)``.

    Returns:
        The handle, which is also a context manager.

    Raises:
        SparseSightError: unknown method or option, settings that are none or go with a method, a budget that no picture
            can meet, a model that is already sparsified.
        UnsupportedModelError: a model without visual tokens, or one that cannot be pruned; the message has the reason.
    """
    budget = {} if retain is None else {"retain": retain}
    if settings is None:
        chosen = make_method(method, **budget, **options)
    elif budget or options or method != DEFAULT:
        both = next(iter([*budget, *options]), "method")
        raise SparseSightError(f"settings={str(settings)!r}: {both} is set by the file, give one of the two")
    else:
        chosen = read_settings(settings)
    return Sparsified(
        model,
        chosen,
        visual_mask,
        trim_early_layers,
        text_tower=text_tower,
        turns=Turns.of(turns, processor),
        timing=timing,
        trace=trace,
        fast=fast,
        encode_once=encode_once,
    )


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
        raise SparseSightError(f"questions: {wrong!r} is not a string; give one for each sample")
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
