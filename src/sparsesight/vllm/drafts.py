"""Models that draft tokens, beside pruning (vLLM 0.32)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core.budget import BEFORE
from ..errors import SparseSightError


def check_drafter(config: Any, stages: tuple[int, ...], kv_groups: bool) -> None:
    """Refuse a draft model where layers have several block tables: vLLM gives it the first one, which is not its own.

    Raises:
        SparseSightError: naming the option and the fix.
    """
    if getattr(getattr(config, "speculative_config", None), "method", "") != "draft_model":
        return
    if kv_groups or stages[0] == BEFORE:
        cause = "kv_groups" if kv_groups else "pruning before the first layer"
        raise SparseSightError(
            f'--speculative-config: with {cause}, layers have several block tables, and vLLM gives a "draft_model" '
            'that of others: use the method "eagle", "eagle3" or "ngram", or a method of sparsesight that prunes '
            "inside the decoder, such as 'sparsevlm+', without kv_groups"
        )


@dataclass
class LayerStates:
    """What a decoder returns of its layers to EAGLE-3, at the length of the step while a step prunes.

    A drafter reads a row for every token, also of those that are dropped; the rows of dropped tokens are zero. Drafts
    may be worse for it, and answers are not: every draft is verified by the pruned model.
    """

    decoder: Any
    rows: dict[int, Tensor] = field(default_factory=dict)  # by their number: rows of the step that are left

    def begin(self) -> None:
        """A step that prunes begins. Without such a drafter nothing differs."""
        if not getattr(self.decoder, "aux_hidden_state_layers", ()):
            return
        inner = type(self.decoder).forward.__get__(self.decoder)

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden, states = inner(*args, **kwargs)
            return hidden, [self._whole(x, len(hidden)) for x in states]

        # Not a hook: vLLM's compiled classes call none.
        self.decoder.forward = forward

    def keep(self, rows: Tensor) -> None:
        """These rows of the step are left from here on."""
        self.rows[len(rows)] = rows

    def end(self) -> None:
        """The step is over."""
        vars(self.decoder).pop("forward", None)
        self.rows = {}

    def _whole(self, states: Tensor, length: int) -> Tensor:
        if len(states) == length:
            return states
        return states.new_zeros(length, states.shape[1]).index_copy_(0, self.rows[len(states)], states)
