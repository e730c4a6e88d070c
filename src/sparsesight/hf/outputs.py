"""Restores the input length of returned hidden states and attentions.

Layers after a stage compute fewer rows over fewer keys, but callers index the result by token position: rows of dropped
tokens are zero, and so is the attention to them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import UnsupportedModelError
from .cache import pruned_layer
from .layer_inputs import fold, unfold
from .pruned_layer import PrunedSlidingLayer
from .state import ForwardState


def widen_outputs(output: Any, forward: ForwardState) -> None:
    """Replace short ``hidden_states`` and ``attentions`` of a decoder's output (a mapping) in place.

    Raises:
        UnsupportedModelError: if attention covers other keys than the cache remembers.
    """
    if not isinstance(output, dict):
        return
    hidden, attentions = output.get("hidden_states"), output.get("attentions")
    if not forward.asked and forward.done and (hidden or attentions):
        raise UnsupportedModelError(
            "output_hidden_states, output_attentions: the model returns them though neither its arguments nor its "
            "config ask for them; set output_hidden_states=True in the call"
        )
    if hidden is not None:
        # The first is what the first layer was given, long if no stage comes before it; the last is what the decoder
        # returns, and long already.
        last = len(forward.plan.kinds)
        output["hidden_states"] = tuple(
            x
            if x is None or (i in (0, last) and x.shape[-2] == forward.length)
            else widen(x, forward, max(i - 1, 0))
            for i, x in enumerate(hidden)
        )
    if attentions is not None:
        layers = [x.index for x in forward.plan.kinds if x.attends]
        if len(attentions) == len(forward.plan.kinds):
            layers = list(range(len(attentions)))
        output["attentions"] = tuple(
            x if x is None else widen_attention(x, forward, layer)
            for x, layer in zip(attentions, layers, strict=True)
        )


def widen(hidden: Tensor, forward: ForwardState, layer: int) -> Tensor:
    """Hidden states [b, m, c] of the rows that ``layer`` computed on as [b, n, c]; of several streams [s, b, m, c]."""
    rows = forward.rows_of(layer)
    if rows is None or hidden.shape[-2] < rows.source.shape[1]:
        return hidden  # of all rows, or of the last ones, with which a decoder went on, as the dense one does
    return unfold(_spread(fold(hidden), 1, rows.source, rows.valid, forward.length), hidden)


def widen_attention(weights: Tensor, forward: ForwardState, layer: int) -> Tensor:
    """Attention [b, h, m, k] of ``layer`` as [b, h, n, past + n], without keys that a windowed cache has forgotten."""
    rows, keys = forward.rows_of(layer), forward.keys_of(layer)
    if keys is not None:
        if keys.slot.shape[1] != weights.shape[3]:
            raise UnsupportedModelError(
                f"output_attentions: layer {layer} attends to {weights.shape[3]} keys, of which "
                f"{keys.slot.shape[1]} are accounted for"
            )
        total = forward.past + forward.length
        wide = _spread(weights, 3, keys.slot, keys.valid, total)
        kind = forward.plan.kinds[layer]
        forgets = isinstance(pruned_layer(forward.cache, kind.source), PrunedSlidingLayer)
        weights = wide[..., max(forward.past - kind.window + 1, 0) :] if kind.window and forgets else wide
    if rows is None or weights.shape[2] < rows.source.shape[1]:
        return weights
    return _spread(weights, 2, rows.source, rows.valid, forward.length)


def _spread(values: Tensor, dim: int, index: Tensor, valid: Tensor, size: int) -> Tensor:
    """``values`` at ``index`` [b, m] along ``dim`` of zeros, ``size`` long; invalid entries are left out."""
    index = index.masked_fill(~valid, size)
    shape = [1] * values.ndim
    shape[0], shape[dim] = index.shape
    wide = list(values.shape)
    wide[dim] = size + 1
    out = values.new_zeros(wide).scatter(dim, index.view(shape).expand_as(values), values)
    return out.narrow(dim, 0, size)
