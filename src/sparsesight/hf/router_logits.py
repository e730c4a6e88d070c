"""Router logits of a mixture of experts whose later layers route fewer rows than the input has.

A model returns them, and computes its auxiliary load-balancing loss from them and the attention mask, which has the
input's length. The caller gets one row per input token, zeros for dropped tokens; the loss covers the rows that ran.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .install import Installation
from .model_parts import ModelParts
from .outputs import widen
from .prompt.inputs import by_name, replaced
from .state import ForwardState

NAME = "output_router_logits"


class RouterCall(threading.local):
    """What the auxiliary loss of the call in flight is given; one per thread."""

    mask: Tensor | None = None  # the caller's attention mask [b, n]
    stand_in: Tensor | None = None  # the same to the model, until it tells of the rows that ran
    to_loss: bool = False  # whether the model computes one
    packed: tuple[Tensor, ...] | None = (
        None  # router logits [rows, experts] of all layers' rows that ran, as one layer
    )
    wide: tuple[Tensor, ...] | None = None  # of every layer [b * n, experts], by a token's place

    def clear(self) -> None:
        self.mask = self.stand_in = self.packed = self.wide = None
        self.to_loss = False


class RouterLogits:
    """Widens router logits for callers, and shows a model's loss those of the rows that ran."""

    def __init__(self, parts: ModelParts) -> None:
        self.model, self.decoder = parts.model, parts.decoder
        self.layers = router_layers(parts.decoder)
        # A wrapped forward has the signature of the class.
        self.has_loss = NAME in inspect.signature(type(parts.model).forward).parameters
        self.call = RouterCall()

    def install(self, added: Installation) -> None:
        """Put hooks on a model that computes a loss; before those of the decoder's entrance."""
        if self.layers and self.has_loss and self.model is not self.decoder:
            added.hook(self.model, "forward_pre", self.enter, with_kwargs=True)
            added.hook(self.decoder, "forward_pre", self.enter_decoder, with_kwargs=True)
            added.hook(self.model, "forward", self.leave)
            added.hook(self.model, "forward", lambda *_: self.call.clear(), always_call=True)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the model a mask that is its own, where it will read it after its decoder ran."""
        self.call.clear()
        config: Any = self.model.config
        given = by_name(module, args, kwargs)
        asked = given.get(NAME)
        if not (
            any(getattr(c, NAME, False) for c in (config, self.decoder.config)) if asked is None else asked
        ):
            return None
        self.call.to_loss = True
        mask = given.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return None
        self.call.mask, self.call.stand_in = mask, mask.detach()
        return replaced(module, args, kwargs, {"attention_mask": self.call.stand_in})

    def enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The decoder gets the caller's: layers that run again in a backward pass must not see it change."""
        mask = by_name(module, args, kwargs).get("attention_mask")
        if mask is None or mask is not self.call.stand_in:
            return None
        return replaced(module, args, kwargs, {"attention_mask": self.call.mask})

    def leave_decoder(self, output: Any, forward: ForwardState) -> None:
        """Replace ``router_logits`` of the decoder's output (a mapping) in place.

        Raises:
            UnsupportedModelError: if it is not known which layers they are of.
        """
        logits = output.get("router_logits") if isinstance(output, dict) else None
        if not logits or not forward.done:
            return
        if len(self.layers) != len(logits) or not forward.asked:
            raise UnsupportedModelError(
                f"{NAME}: the decoder layers of these {len(logits)} router logits are not known; leave it out"
            )
        call, batch, device = self.call, forward.batch, logits[0].device
        every = torch.ones(batch, forward.length, dtype=torch.bool, device=device)
        if call.mask is not None and call.mask.shape == every.shape:
            every = call.mask.to(device).bool()
        by_layer = list(zip(self.layers, (x.reshape(batch, -1, x.shape[-1]) for x in logits), strict=True))
        call.wide = tuple(widen(x, forward, layer).flatten(0, 1) for layer, x in by_layer)
        if not call.to_loss:
            output["router_logits"] = call.wide
            return
        rows = [forward.rows_of(layer) for layer, _ in by_layer]
        valid = torch.cat([(every if r is None else r.valid.to(device)).flatten() for r in rows])
        packed = torch.cat([x.flatten(0, 1).to(device) for _, x in by_layer])
        if call.stand_in is None:  # the loss counts all that it is given
            packed = packed[valid]
        else:
            call.stand_in.data = valid.to(call.stand_in)[None]
        output["router_logits"] = call.packed = (packed,)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The model's output, with what its caller is to see."""
        call = self.call
        if call.packed is None:
            return None
        if isinstance(output, tuple):
            return tuple(call.wide if x is call.packed else x for x in output)
        if isinstance(output, dict) and output.get("router_logits") is call.packed:
            output["router_logits"] = call.wide
        return output


def router_layers(decoder: Any) -> tuple[int, ...]:
    """The layer of every router whose logits transformers collects, in their order."""
    recorders = (getattr(decoder, "_can_record_outputs", None) or {}).get("router_logits", ())
    found = []
    for index, layer in enumerate(decoder.layers):
        for recorder in recorders if isinstance(recorders, (list, tuple)) else [recorders]:
            kind: Any = getattr(recorder, "target_class", recorder)
            name = getattr(recorder, "layer_name", None) or ""
            found += [
                index for n, m in layer.named_modules() if isinstance(m, kind) and name in f"{index}.{n}"
            ]
    return tuple(found)
