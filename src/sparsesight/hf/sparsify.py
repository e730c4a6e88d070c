"""``sparsify()``: sparsify a model, and restore it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core.turns import Marker, Turns
from ..methods import Method, make_method
from .compiled.options import Fast
from .prompt.visual_mask import VisualMask
from .sparsified import Sparsified
from .vision.text_tower import TextTower

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..core.budget import Retain
    from ..methods.options import MethodName, MethodOptions


def sparsify(
    model: nn.Module,
    method: Method | MethodName = "sparsevlm+",
    *,
    retain: Retain | None = None,
    visual_mask: VisualMask | None = None,
    text_tower: TextTower | None = None,
    processor: Any = None,
    turns: Turns | Marker | Iterable[Marker] | None = None,
    trim_early_layers: bool = False,
    timing: bool = False,
    trace: bool = False,
    fast: Fast | bool | str = False,
    **options: Unpack[MethodOptions],
) -> Sparsified:
    """Make a vision-language model drop visual tokens between its decoder layers, guided by the question.

    Takes effect at once and until :meth:`Sparsified.restore`, or as a context manager::

        with sparsify(model, "sparsevlm+", retain=64) as run:
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
            fields). For type checkers, pass a name that is only known at run time through ``methods.make_method``.
        retain: the budget: average visual tokens per layer (int), a ratio in (0, 1], or counts per stage (tuple).
            Default: the method's own.
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
        **options: further fields of the method, such as ``layers=(2, 6, 15)``.

    Returns:
        The handle, which is also a context manager.

    Raises:
        SparseSightError: unknown method or option, a budget that no picture can meet, a model that is already
            sparsified.
        UnsupportedModelError: a model without visual tokens, or one that cannot be pruned; the message has the reason.
    """
    budget = {} if retain is None else {"retain": retain}
    return Sparsified(
        model,
        make_method(method, **budget, **options),
        visual_mask,
        trim_early_layers,
        text_tower=text_tower,
        turns=Turns.of(turns, processor),
        timing=timing,
        trace=trace,
        fast=fast,
    )
