"""Saying call by call which tokens are visual, for models that put pictures into ``inputs_embeds`` themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .hooks import MARK
from .layout import Given


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
    given = Given.of(mask, frames)
    hooks = next((vars(m)[MARK] for m in model.modules() if MARK in vars(m)), None)
    if hooks is None:
        yield
        return
    local = hooks.local
    outer = getattr(local, "given", None)
    local.given = given
    try:
        yield
    finally:
        local.given = outer
