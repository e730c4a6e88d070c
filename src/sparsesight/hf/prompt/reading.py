"""Reads a prompt before it runs: where its visual tokens are, where it ends, which text scores them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...core.regions import Marks
from ...core.turns import Turns
from ...profiling.sections import LAYOUT
from ..call import Call
from ..model_parts import ModelParts
from .answers import Labels, prompt_end
from .frames import FrameRule, Frames
from .generation import Generating
from .inputs import among, documents, valid_rows
from .layout import Layout, Plan
from .visual_mask import VisualMask, cannot_tell, layout_as_given


class PromptReader:
    """Makes the layout of a prompt.

    Args:
        parts: of the model.
        plan: of the sparsification.
        visual_mask: the caller's own, or None for placeholder ids.
        turns: how a chat marks its turns; None: not known.
        generating: what ``generate()`` knows.
        call: the call in flight.
    """

    def __init__(
        self,
        parts: ModelParts,
        plan: Plan,
        visual_mask: VisualMask | None,
        turns: Turns | None,
        generating: Generating,
        call: Call,
    ) -> None:
        self.parts, self.plan, self.visual_mask = parts, plan, visual_mask
        self.turns = turns if plan.method.judged_by == "turn" else None
        self.generating, self.call = generating, call
        self.frame_rule = FrameRule.of(parts.model.config)

    def has_pictures(self, ids: Any) -> bool:
        """Whether a prompt of these token ids (None if it is embeddings) has visual tokens."""
        if self.visual_mask is not None or not isinstance(ids, Tensor) or ids.is_floating_point():
            return self.visual_mask is not None
        return bool(among(ids, self.parts.visual_ids).any())

    def of_ids(self, ids: Any, past: int, kwargs: dict[str, Any]) -> Layout | None:
        """By placeholder ids, before the picture is encoded; None if these tell nothing, or there is no prompt."""
        if self.visual_mask is not None or not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[1] < 2:
            return None
        prompt = self.generating.prompt_columns(past, ids.shape[1])
        if not prompt:
            return None
        with self.plan.clock(LAYOUT):
            visual = among(ids, self.parts.visual_ids)
            valid = valid_rows(kwargs.get("attention_mask"), ids, visual)
            visual = visual & valid
            video = among(ids, self.frame_rule.video_ids) & visual
            frames = Frames.of(visual, video, self.frame_rule, kwargs)
            return Layout.of(valid, frames, self.end(visual, prompt), self.marks(ids, kwargs, valid))

    def at_decoder(self, decoder: nn.Module, x: Tensor, past: int, kwargs: dict[str, Any]) -> Layout | None:
        """For what enters the decoder: embeddings [b, n, c] or token ids [b, n]; None if it is no prompt.

        Raises:
            SparseSightError: for embeddings alone of a model with placeholder ids.
        """
        layout, ids, given = self.call.layout, self.call.ids, self.call.given
        length, mask = x.shape[1], kwargs.get("attention_mask")
        prompt = self.generating.prompt_columns(past, length)
        if length > 1 and (self.visual_mask is not None or given is not None):
            known = partial(self.marks, ids if x.is_floating_point() else x, kwargs)
            if callable(self.visual_mask) and not x.is_floating_point():
                x = decoder.get_input_embeddings()(x)  # type: ignore[operator]
            layout = layout_as_given(given, self.visual_mask, x, mask, past, prompt, self.end, known)
        elif length > 1 and prompt and ids is None and x.is_floating_point():
            raise cannot_tell(self.parts.model)
        follows = past and given is not None and given.mask is not None  # the prompt that was told of
        # Guidance runs a shorter prompt of its own inside generate(): the report stays that of the whole one.
        whole = self.generating.prompt is None or past + length >= self.generating.prompt
        if layout is None and prompt and whole and (length > 1 or not past) and not follows:
            layout = Layout.dense(valid_rows(mask, x[..., 0] if x.is_floating_point() else x))
        return layout

    def end(self, visual: Tensor, prompt: int) -> int | Tensor:
        """The column at which the prompt ends: ``prompt``, as far as ``generate()`` knows."""
        if self.generating.within:
            return prompt
        return prompt_end(visual, self.call.ends, self.call.labels)

    def marks(self, ids: Any, call: dict[str, Any], valid: Tensor) -> Marks | None:
        """What marks turns and packed documents in a prompt; None if nothing does."""
        plain = not self.generating.within
        return marks_of(self.turns, ids, call if plain else {}, self.call.labels if plain else None, valid)


def marks_of(
    turns: Turns | None, ids: Any, call: dict[str, Any], labels: Labels | None, valid: Tensor
) -> Marks | None:
    """The marks of turns and packed documents in a prompt; None if there are none.

    Args:
        turns: the markers of the model's chats, if known.
        ids: token ids [b, n], if there are any.
        call: arguments of a plain forward; not those of ``generate()``, which does not pack.
        labels: of the call, if it has any.
        valid: which rows are not padding, boolean [b, n].
    """
    fits = isinstance(ids, Tensor) and ids.shape == valid.shape
    marks = turns.marks(ids) if turns is not None and fits else None
    document = documents(call.get("position_ids"), call.get("cu_seq_lens_q"), valid)
    if marks is None and document is None:
        return None
    answer = None if labels is None else labels.rows(valid)
    return replace(marks or Marks(), document=document, answer=answer)
