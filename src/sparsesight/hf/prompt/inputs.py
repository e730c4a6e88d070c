"""Reads the arguments of a model before it runs: pictures, padding, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.modeling_layers import GradientCheckpointingLayer

from ...equal_cost import PromptSizes
from ...errors import UnsupportedModelError
from ..masks import rows_of_block_mask

HIDDEN = -1e4  # additive masks hide with this or less


def _order(*kinds: type) -> tuple[str, ...]:
    """Names of the arguments that a kind of module takes by position, or the next of them if it names none."""
    for kind in kinds:
        parameters = inspect.signature(getattr(kind, "forward", lambda self: None)).parameters.values()
        names = tuple(x.name for x in parameters if x.kind is x.POSITIONAL_OR_KEYWORD)[1:]
        if names:
            return names
    return ()


def by_name(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], inner: nn.Module | None = None
) -> dict[str, Any]:
    """All arguments of a call by their names; a wrapper that names none passes them to ``inner``."""
    if not args:
        return kwargs
    return {**dict(zip(_order(type(module), type(inner)), args, strict=False)), **kwargs}


def replaced(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    new: Mapping[str, Any],
    inner: nn.Module | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with other values of some of its arguments, by position or by name as they were given."""
    names = _order(type(module), type(inner))[: len(args)]
    given = (*(new.get(name, x) for name, x in zip(names, args, strict=False)), *args[len(names) :])
    return given, {**kwargs, **{name: x for name, x in new.items() if name not in names}}


def among(ids: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """Which of the token ids are one of ``tokens``."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for token in tokens:
        found |= ids == token
    return found


def prompt_sizes(inputs: Mapping[str, Any], visual_ids: tuple[int, ...]) -> list[PromptSizes]:
    """Sizes of every prompt of a batch, from its ``input_ids`` [b, n] and ``attention_mask``, if there is one."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    visual = among(ids, visual_ids) & mask
    behind = visual.long().flip(1).cumsum(1).flip(1) == 0  # no visual token from here on
    counts = zip(*(x.sum(1).tolist() for x in (visual, mask & behind, mask)), strict=True)
    return [PromptSizes(v, t if v else n, n - v - t if v else 0) for v, t, n in counts]


def asks_for_outputs(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether a call is to return hidden states, attentions or router logits of all layers."""
    config = getattr(module, "config", None)
    return any(
        kwargs.get(name) or getattr(config, name, None)
        for name in ("output_hidden_states", "output_attentions", "output_router_logits")
    )


def refuse_tracing() -> None:
    """Refuse to be recorded.

    Raises:
        UnsupportedModelError: inside of ``torch.jit.trace`` or ``torch.export``.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
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


def valid_rows(attention_mask: Any, like: Tensor, visual: Tensor | None = None) -> Tensor:
    """Which of the current input's tokens are not padding, boolean [b, n]; all of them if the mask does not tell.

    Args:
        attention_mask: 2D over past and present; the caller's own 4D one [b or 1, h, n, past + n], boolean or additive;
            a flex ``BlockMask``; or a mapping of those by kinds of layers.
        like: a tensor [b, n] of the input.
        visual: boolean [b, n], tokens that may see each other in both directions; None: unknown.
    """
    n = like.shape[1]
    if isinstance(attention_mask, Mapping):
        masks = [x for x in attention_mask.values() if x is not None]
        rows = [
            valid_rows(x, like, visual) for x in masks
        ]  # a window hides tokens, none of them from all kinds
        return torch.stack(rows).any(0) if rows else torch.ones_like(like, dtype=torch.bool)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2 and attention_mask.shape[1] >= n:
        return attention_mask[:, attention_mask.shape[1] - n :].to(like.device).bool()
    seen = _seen(attention_mask, like)
    return torch.ones_like(like, dtype=torch.bool) if seen is None else _not_padding(seen, visual)


def _seen(mask: Any, like: Tensor) -> Tensor | None:
    """Which rows of the input see which of its tokens, boolean [b, n, n]; None if the mask has another form."""
    b, n = like.shape
    if isinstance(mask, BlockMask):
        past = mask.seq_lengths[1] - mask.seq_lengths[0]
        if mask.seq_lengths[0] != n or past < 0:
            return None
        row = torch.arange(n, device=like.device).expand(b, -1)
        return rows_of_block_mask(mask, row, row + past)
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[2] != n or mask.shape[3] < n:
        return None
    own = mask[..., mask.shape[3] - n :].to(like.device)
    return (own if own.dtype == torch.bool else own > HIDDEN).any(1).expand(b, -1, -1)


def _not_padding(seen: Tensor, visual: Tensor | None) -> Tensor:
    """Which tokens are real, from which rows see which tokens.

    No real row but the last sees a padding token; nor is a prompt's last token seen, or that of each document packed
    into a row, but those see themselves and others. Rows of padding may see real tokens and themselves: they are told
    by being neighbours. Rows that see everything are padding whose empty rows were opened, as some attention kernels
    need it; unless all rows do, or they are visual, or it is the last row and earlier ones account for what it sees.
    Padding at either end may also see itself in both directions, see :func:`_mutual`.
    """
    visual = torch.zeros_like(seen[:, 0]) if visual is None else visual.to(seen.device)
    itself = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
    opened = seen.all(2, keepdim=True)
    opened = opened & ~opened.all(1, keepdim=True) & ~visual[..., None]
    opened[:, -1] &= ~(seen & ~opened).any(1)[:, :-1].all(1, keepdim=True)
    others = seen & ~itself & ~opened
    is_seen = others.any(1)
    last = ~is_seen & others.any(2) & seen.diagonal(dim1=1, dim2=2)
    around = torch.nn.functional.pad(last, (1, 1))
    real = is_seen | (last & ~around[:, 2:] & ~around[:, :-2])
    return real & ~_mutual(seen, visual, 0) & ~_mutual(seen, visual, -1)


def _mutual(seen: Tensor, visual: Tensor, end: int) -> Tensor:
    """The rows at one end (0 or -1) that see each other and nothing else, where all other text is causal.

    A packed document of text alone is causal like the others.
    """
    view = seen[:, end]
    block = (seen == view[:, None]).all(2)
    later = (seen & ~visual[:, None]).triu(1).any(2) & ~visual  # text that sees later text
    alone = ~(seen & ~block[..., None] & block[:, None]).any(2).any(1)
    causal = (seen.tril(-1).any(2) & ~block & ~visual).any(1)
    told = alone & causal & (block == view).all(1) & (block & later).any(1)
    told &= ~((block & visual) | (later & ~block)).any(1)
    return block & told[:, None]


def documents(position: Any, bounds: Any, valid: Tensor) -> Tensor | None:
    """The first row of each packed document but for a sample's first, boolean [b, n]; None if the call cannot tell.

    Args:
        position: positions [b, n] or [axes, b, n] of the call, if it has any: a document begins where they go back.
        bounds: ``cu_seq_lens_q`` of the call, if it has any: where documents of a single row begin and end.
        valid: which rows are not padding.
    """
    if isinstance(bounds, Tensor) and bounds.ndim == 1 and len(valid) == 1:
        begins = torch.zeros_like(valid)
        begins[0, bounds[1:-1].long().to(valid.device)] = True
        return begins
    if not isinstance(position, Tensor) or position.ndim not in (2, 3):
        return None
    position = position if position.ndim == 2 else position[0]
    if position.shape[1] != valid.shape[1] or position.shape[0] not in (1, len(valid)):
        return None
    begins = torch.zeros_like(valid)
    goes_back = (position[:, 1:] < position[:, :-1]).to(valid.device)
    begins[:, 1:] = goes_back & valid[:, 1:] & valid[:, :-1]
    return begins
