"""The fast path of a prefill: the layers between two stages run as one program.

Counts follow from the schedule, so the length of each segment is known beforehand. Programs are kept per segment and
rounded-up length and run in place of the segment's first layer; its other layers pass the result on. Whatever a program
cannot do runs the ordinary way, and :class:`FastUse` gives the reason.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import SparseSightError
from ..cache import CACHE_NAMES, cache_among, cache_name
from ..install import Installation, uncompiled
from ..layer_inputs import same_arguments
from ..model_parts import ModelParts, attention_implementation
from ..prompt.layout import Plan
from ..state import ForwardState
from .options import Fast, FastUse
from .segment import Output, Program, function_of

# Arguments that a layer with ready-made rotary tables and an empty cache does not need.
NEEDLESS = ("position_ids", "cache_position")


@dataclass
class Flight:
    """One segment of one forward: what its program returned, or None while its layers run the ordinary way."""

    first: int
    last: int
    output: Output | None
    hidden: Tensor | None = None  # that the next layer has to be given
    given: dict[str, Any] = field(default_factory=dict)  # arguments of its first layer
    chained: bool = True


class Local(threading.local):
    """Programs have buffers, so every thread has its own."""

    def __init__(self) -> None:
        self.programs: OrderedDict[Any, Program | str] = OrderedDict()
        self.built = 0
        self.pool: Any = None
        self.last: list[tuple[int, int, str]] = []  # segments of the last prefill, and why they were none


class FastPath:
    """Puts itself before the forward of every decoder layer; it goes with ``added``.

    Args:
        parts, plan: of the model that is sparsified.
        how: to run.
        current: the forward in flight in this thread, if it is one of ours.
        added: takes back what is put on the layers.
    """

    def __init__(
        self,
        parts: ModelParts,
        plan: Plan,
        how: Fast,
        current: Callable[[], ForwardState | None],
        added: Installation,
    ) -> None:
        self.parts, self.plan, self.how, self.current = parts, plan, how, current
        self.added = added
        self.local = Local()
        self.chained: set[tuple[int, int, bool]] = (
            set()
        )  # segments that were seen to hand on what they return
        self.modules = [list(layer.modules()) for layer in parts.layers]
        self.weights = [[*layer.parameters(), *layer.buffers()] for layer in parts.layers]
        device = next(parts.decoder.parameters()).device
        self.runner = how.runner or ("graph" if device.type == "cuda" else "compile")
        if self.runner == "graph" and device.type != "cuda":
            raise SparseSightError(
                f"fast: runner='graph' needs CUDA, the model is on {device}; use 'compile'"
            )
        self.never = self._unsuitable()
        self.plain: list[Callable[..., Any]] = [layer.forward for layer in parts.layers]
        for i, layer in enumerate(parts.layers):
            added.attribute(layer, "forward", uncompiled(self._forward(i, self.plain[i])))

    @property
    def use(self) -> FastUse:
        """Of the last prefill in this thread."""
        last = self.local.last
        return FastUse(
            tuple((a, b) for a, b, _ in last),
            tuple(not why for *_, why in last),
            tuple(why for *_, why in last if why),
            self.local.built,
        )

    def _forward(self, index: int, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            state = self.current()
            if state is None or state.layout is None:  # decoding
                return plain(hidden_states, *args, **kwargs)
            flight = state.flight
            if flight is None or index > flight.last:
                flight = state.flight = self._start(index, state, hidden_states, args, kwargs)
            if flight.output is None:
                out = plain(hidden_states, *args, **kwargs)
                self._watch(flight, index, state, hidden_states, kwargs, out)
                return out
            return self._hand_on(flight, flight.output, index, state, hidden_states, kwargs)

        return forward

    # -- a segment ----------------------------------------------------------------------------------------------

    def _start(
        self, index: int, state: ForwardState, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Flight:
        """Run the segment that begins here, or say why its layers run one by one."""
        last = self._last(index, state.active)
        if index == 0:
            self.local.last = []
        flight = Flight(index, last, None, hidden, kwargs)
        why = self.never or self._not_now(index, last, state, hidden, args, kwargs)
        if not why and self.runner == "compile" and index in self.plan.read:
            why = "the compiler cannot follow the probe of a pruning layer"
        if not why and (index, last, state.active) not in self.chained:
            why = "the first forward shows whether its layers hand on what they return"
        if not why:
            program = self._program(index, last, hidden, kwargs)
            if isinstance(program, str):
                why = program
            else:
                flight.output = program(hidden, *kwargs["position_embeddings"])
                flight.hidden = flight.output.hidden
                if last == len(self.parts.layers) - 1:  # it leaves the decoder, and may be kept by anybody
                    flight.hidden = flight.hidden.clone()
        self.local.last.append((index, last, why))
        return flight

    def _last(self, first: int, active: bool) -> int:
        """The last layer of the segment that begins with ``first``."""
        ends = self.plan.stages if active else ()
        if self.runner == "compile":  # a probed layer is a segment of its own
            ends += tuple(p if p == first else p - 1 for p in self.plan.read)
        return min((p for p in ends if p >= first), default=len(self.parts.layers) - 1)

    def _hand_on(
        self,
        flight: Flight,
        output: Output,
        index: int,
        state: ForwardState,
        hidden: Tensor,
        kwargs: dict[str, Any],
    ) -> Tensor:
        """What a layer of a segment that has run returns; its keys go to the cache."""
        if index > flight.first and (hidden is not flight.hidden or not same_arguments(flight.given, kwargs)):
            raise SparseSightError(
                f"fast: something changed the hidden states between decoder layers {index - 1} and {index}, which "
                "had run as one program; use fast=False for this model"
            )
        place = index - flight.first
        cache = cache_among(kwargs)
        if cache is not None:
            cache.update(output.keys[place], output.values[place], index)
        if index == flight.last and output.query is not None:
            state.observe(index, output.query, output.keys[place], None, output.how)
        assert flight.hidden is not None
        return flight.hidden

    def _watch(
        self,
        flight: Flight,
        index: int,
        state: ForwardState,
        hidden: Tensor,
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        """Learn whether the layers of this segment are given what the one before returned, and the same arguments."""
        flight.chained &= (
            isinstance(out, Tensor) and hidden is flight.hidden and same_arguments(flight.given, kwargs)
        )
        flight.hidden = out
        if index == flight.last and flight.chained:
            self.chained.add((flight.first, flight.last, state.active))

    def _program(self, first: int, last: int, hidden: Tensor, kwargs: dict[str, Any]) -> Program | str:
        """The program for this shape, or why there is none."""
        constants = {k: v for k, v in kwargs.items() if k not in (*CACHE_NAMES, "position_embeddings")}
        constants.update((k, None) for k in NEEDLESS if k in constants)
        inputs = (hidden, *kwargs["position_embeddings"])
        length = self.how.length(hidden.shape[1])
        weights = tuple(x.data_ptr() for layer in self.weights[first : last + 1] for x in layer)
        key = (
            (first, last, length, attention_implementation(self.parts.decoder), weights),
            tuple((x.shape[0], x.shape[2:], x.dtype) for x in inputs),
            tuple(sorted(constants.items(), key=lambda item: item[0])),
        )
        programs = self.local.programs
        if key in programs:
            programs.move_to_end(key)
            return programs[key]
        if self.runner == "graph" and self.local.pool is None:
            self.local.pool = torch.cuda.graph_pool_handle()
        probed = {p - first for p in self.plan.read if first <= p <= last}
        function = function_of(self.plain[first : last + 1], constants, probed, cache_name(kwargs))
        made: Program | str
        try:
            made = program = Program(function, inputs, length, self.runner, self.local.pool)
            program(*inputs)  # compilers start to work now
            self.local.built += 1
        except Exception as error:  # a compiler may raise anything; the model itself still runs
            made = f"its program could not be built: {type(error).__name__}: {error}"
        programs[key] = made
        if len(programs) > self.how.programs:
            programs.popitem(last=False)
        return made

    # -- what a program cannot do -------------------------------------------------------------------------------

    def _unsuitable(self) -> str:
        """Of this model, ever."""
        if any(kind.kind != "full_attention" or kind.source != kind.index for kind in self.parts.kinds):
            return "its layers do not all have full attention and keys of their own"
        if getattr(self.parts.decoder.config, "kv_lora_rank", None):
            return "its layers cache latents, from which they make keys"
        if len({x.device for layer in self.weights for x in layer}) > 1:
            return "its layers lie on several devices"
        for module in (m for modules in self.modules for m in modules):
            if self.added.foreign_attribute(module, "forward"):
                return f"{type(module).__name__}.forward was replaced on the instance"
            if hasattr(module, "active_adapters"):
                return "adapters can be switched at any time; merge them first"
        return ""

    def _not_now(
        self,
        first: int,
        last: int,
        state: ForwardState,
        hidden: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> str:
        """Of this forward."""
        tables = kwargs.get("position_embeddings")
        odd = [k for k, v in kwargs.items() if not _known(k, v)]
        foreign = self._foreign_hooks(first, last)
        reasons = {
            "gradients are recorded: use torch.no_grad()": torch.is_grad_enabled(),
            "the model is in training mode": self.parts.layers[first].training,
            "autocast is on": torch.is_autocast_enabled(hidden.device.type),
            "tokens are cached already": state.past > 0,
            "there is a mask: samples of different lengths, or attention that needs one": kwargs.get(
                "attention_mask"
            )
            is not None,
            "hidden states or attentions are to be returned": state.asked,
            "what the stages saw is to be kept": self.plan.keep_trace,
            "its layers are given other things than hidden states and rotary tables": bool(args)
            or hidden.ndim != 3
            or not _are_tables(tables, hidden),
            f"its layers are given {odd}": bool(odd),
            f"{foreign} has hooks": bool(foreign),
        }
        return next((why for why, holds in reasons.items() if holds), "")

    def _foreign_hooks(self, first: int, last: int) -> str:
        """A module of these layers with hooks that are not ours, which a program would not call."""
        for modules in self.modules[first : last + 1]:
            for module in modules:
                if (module._forward_hooks or module._forward_pre_hooks) and self.added.foreign_hooks(module):
                    return type(module).__name__
        return ""


def _are_tables(tables: Any, hidden: Tensor) -> bool:
    """Whether they are cosines and sines of the rows, [b or 1, n, d]."""
    return (
        isinstance(tables, tuple)
        and len(tables) == 2
        and all(isinstance(x, Tensor) and x.ndim == 3 and x.shape[1] == hidden.shape[1] for x in tables)
    )


def _known(name: str, value: Any) -> bool:
    """Whether a layer's argument can be built into a program."""
    if name in (*CACHE_NAMES, "position_embeddings", "attention_mask", *NEEDLESS):
        return True
    return value is None or isinstance(value, (bool, int, float, str))
