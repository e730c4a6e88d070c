"""What the arguments of a model tell before it runs: which tokens are pictures or padding; what is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ...errors import UnsupportedModelError


def among(ids: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """Which of the token ids are one of ``tokens``."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for token in tokens:
        found |= ids == token
    return found


def asks_for_outputs(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether a call is to return hidden states or attentions of all layers."""
    config = getattr(module, "config", None)
    return any(
        kwargs.get(name) or getattr(config, name, None)
        for name in ("output_hidden_states", "output_attentions")
    )


def refuse_tracing() -> None:
    """Refuse to be recorded.

    Raises:
        UnsupportedModelError: inside of ``torch.jit.trace`` or ``torch.export``.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise UnsupportedModelError(
            "torch.jit.trace, torch.export: which tokens stay is decided prompt by prompt, and a recorded graph would "
            "keep those of this one; restore() the model first"
        )


def is_checkpointed(decoder: nn.Module) -> bool:
    """Whether the decoder's layers run again in the backward pass.

    Raises:
        UnsupportedModelError: where they would do so together with the hooks on them.
    """
    if not (decoder.training and getattr(decoder, "gradient_checkpointing", False)):
        return False
    if "__call__" in vars(GradientCheckpointingLayer):
        raise UnsupportedModelError(
            "gradient checkpointing of this version of transformers runs a layer's hooks again, without their rows: "
            "call model.gradient_checkpointing_disable() while sparsified, or use a newer transformers"
        )
    return True


def valid_rows(attention_mask: Any, like: Tensor) -> Tensor:
    """Which of the current input's tokens are not padding, from a 2D mask over past and present; else all."""
    if (
        isinstance(attention_mask, Tensor)
        and attention_mask.ndim == 2
        and attention_mask.shape[1] >= like.shape[1]
    ):
        return attention_mask[:, attention_mask.shape[1] - like.shape[1] :].to(like.device).bool()
    return torch.ones_like(like, dtype=torch.bool)
