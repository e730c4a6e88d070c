"""Visual tokens given by the caller, for models without placeholder ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.regions import Marks
from ...errors import SparseSightError
from .frames import Frames
from .inputs import valid_rows
from .layout import Layout

PER_CALL = "per call"
VisualMask = Tensor | Callable[[Tensor], Tensor] | Literal["per call"]


@dataclass
class VisualMaskSpec:
    """What a caller says of a prompt's visual tokens."""

    mask: Tensor | None  # boolean [b, n]; None: there are none
    frames: Tensor | None = None  # whole numbers [b, n]
    once: bool = True  # whether it is about one prompt, rather than every prompt of its length
    used: bool = False  # whether that has come

    @classmethod
    def of(cls, mask: Tensor | None, frames: Tensor | None = None) -> VisualMaskSpec:
        """Check dtypes and shapes; a single sample may lack the batch axis.

        Raises:
            SparseSightError: saying what was given, and what is possible.
        """
        if mask is None:
            if frames is not None:
                raise SparseSightError("frames: given without a visual_mask; pass both or none")
            return cls(None)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim not in (1, 2):
            raise SparseSightError(
                f"visual_mask: expected a boolean tensor [batch, length], got {_described(mask)}"
            )
        if frames is None:
            return cls(mask if mask.ndim == 2 else mask[None])
        fits = isinstance(frames, Tensor) and frames.shape == mask.shape
        if not fits or frames.is_floating_point() or frames.is_complex() or frames.dtype == torch.bool:
            raise SparseSightError(
                f"frames: expected whole numbers {list(mask.shape)} as visual_mask has, got {_described(frames)}"
            )
        return cls(mask.reshape(-1, mask.shape[-1]), frames.reshape(-1, mask.shape[-1]))

    def rows(
        self, batch: int, length: int, past: int, prompt: int
    ) -> tuple[Tensor, Tensor | None, int] | None:
        """Mask and frames of an input, and where the prompt ends in it; None if the prompt is not in it.

        Args:
            batch, length: of the input.
            past: tokens cached before.
            prompt: how many of the input's tokens are the prompt's, as far as ``generate()`` knows. A model's own
                ``generate`` may not know: what a caller gave for one prompt tells it better.

        Raises:
            SparseSightError: if a prompt has another size.
        """
        if self.mask is None:
            return None
        rows, columns = self.mask.shape
        if past and (self.used if self.once else columns != length):
            return None  # what follows the prompt
        # Without a cache, what was generated comes again behind the prompt.
        more = columns < length and not past and (self.used if self.once else columns == prompt)
        if (columns != length and not more) or batch % rows:
            raise SparseSightError(
                f"visual_mask: has shape {[rows, columns]}, but this call brings {length} tokens for a batch of "
                f"{batch}; give every call its own with visual_tokens(model, mask)"
            )
        self.used = True

        def shaped(x: Tensor) -> Tensor:
            # Beams of a sample follow one another.
            return torch.nn.functional.pad(x, (0, length - columns)).repeat_interleave(batch // rows, 0)

        frames = None if self.frames is None else shaped(self.frames)
        return shaped(self.mask), frames, columns


def _described(x: object) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def layout_as_given(
    given: VisualMaskSpec | None,
    visual_mask: VisualMask | None,
    x: Tensor,
    attention_mask: object,
    past: int,
    prompt: int,
    prompt_end: Callable[[Tensor, int], int | Tensor],
    marks: Callable[[Tensor], Marks | None] = lambda _: None,
) -> Layout | None:
    """The layout by the caller's own mask; None if these tokens are not the prompt it is about.

    Args:
        given: for this call, if anything was.
        visual_mask: for every call: a mask, a function of the embeddings, or :data:`PER_CALL`.
        x: embeddings [b, n, c], or token ids [b, n].
        attention_mask: of the call.
        past: tokens cached before.
        prompt: how many of the tokens are the prompt's, as far as ``generate()`` knows.
        prompt_end: tells from visual tokens [b, n] and that number where the prompt ends.
        marks: what is known of turns and documents, from the rows that are no padding.

    Raises:
        SparseSightError: if there is no mask for a prompt, or one of another kind or size.
    """
    if given is None:
        if isinstance(visual_mask, str):
            if past:
                return None  # what follows a prompt
            raise SparseSightError(
                f"visual_mask={PER_CALL!r}: no mask was given for this prompt; put `with visual_tokens(model, mask)` "
                "around the call, with mask=None for a prompt without pictures"
            )
        mask = visual_mask(x) if callable(visual_mask) else visual_mask
        given = replace(VisualMaskSpec.of(mask), once=False)
    rows = given.rows(x.shape[0], x.shape[1], past, prompt)
    if rows is None:
        return None
    mask, frames, end = rows
    # What was generated is in the embeddings that a callable sees; a mask ends where the prompt does.
    prompt = min(end, prompt) if callable(visual_mask) and not given.once else end
    mask, frames = mask.to(x.device), None if frames is None else frames.to(x.device)
    valid = valid_rows(attention_mask, mask, mask)
    visual = mask & valid
    return Layout.of(valid, Frames.given(visual, frames), prompt_end(visual, prompt), marks(valid))


def cannot_tell(model: nn.Module) -> SparseSightError:
    """Of a prompt of embeddings alone."""
    return SparseSightError(
        f"inputs_embeds: in embeddings alone, no token of {type(model).__name__} can be told to be visual; put `with "
        "visual_tokens(model, mask)` around the call, with mask=None for a prompt without pictures, or give generate() "
        "the input_ids too"
    )
