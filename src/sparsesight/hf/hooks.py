"""The hooks that let a decoder run with fewer tokens.

A forward passes them in this order: the model's entrance (token ids, before the picture is encoded), the decoder's
entrance, the first layer's entrance (embeddings: a stage before it prunes, then raters are chosen), the attention of
pruning layers (the probe), the entrance of every layer after the first stage, the last layer's exit, the decoder's
exit. The state of a forward is a :class:`ForwardState`, one per thread, which is dropped when the decoder returns or
raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.rows import Rows
from ..core.turns import Turns
from ..errors import SparseSightError
from .cache import cache_among, cached_length, check_cache, was_pruned
from .cache_lock import lock, sign, unlock
from .call import Call
from .compiled.dispatch import FastPath
from .compiled.options import Fast, FastUse
from .fullgraph import refuse_fullgraph, without_fullgraph
from .install import MARK, Installation
from .model_parts import ModelParts, attention_implementation, check_implementation, copies_of
from .outputs import widen_outputs
from .probe import Probe, probed
from .prompt.answers import IgnoredLabels, Labels
from .prompt.generation import Generating, no_continuous_batching
from .prompt.inputs import asks_for_outputs, by_name, is_checkpointed, refuse_tracing, replaced
from .prompt.layout import Plan
from .prompt.reading import PromptReader
from .prompt.visual_mask import VisualMask
from .record import PrefillRecord
from .router_logits import RouterLogits
from .state import ForwardState
from .vision.once import EncodeOnce
from .vision.reader import VisionReader
from .vision.text_tower import TextTower, questions_of

REST = "rest"  # see `profiling.sections.PARTS`


class Hooks:
    """Installs itself on a model; ``remove`` takes everything back.

    Args:
        parts: of the model.
        plan: what to do.
        visual_mask: the caller's own, or None for placeholder ids.
        done: called after every forward of the decoder with its record (None if it was no prefill) and milliseconds
            (None unless ``timing``), and what became of the fast path. It must not hold the handle: the model would
            keep it.
        timing: whether to wait for the device and measure.
        text_tower: for a method that compares the question with patches.
        turns: how a chat marks its turns; None: not known.
        fast: how to run segments as programs; None: not at all.
        encode_once: whether equal pictures are encoded once.

    Raises:
        SparseSightError: if the decoder already has hooks; nothing is installed then.
    """

    def __init__(
        self,
        parts: ModelParts,
        plan: Plan,
        visual_mask: VisualMask | None,
        done: Callable[[PrefillRecord | None, float | None, FastUse | None], None],
        timing: bool,
        text_tower: TextTower | None = None,
        fast: Fast | None = None,
        turns: Turns | None = None,
        encode_once: bool = False,
    ) -> None:
        if getattr(parts.decoder, MARK, None) is not None:
            raise SparseSightError(
                f"model={type(parts.model).__name__} is already sparsified: restore() the first handle, or "
                "call sparsesight.restore(model) if it is lost"
            )
        self.parts, self.plan = parts, plan
        self.done, self.timing = done, timing
        self.call = Call()
        self.generating = Generating()
        self.reader = PromptReader(parts, plan, visual_mask, turns, self.generating, self.call)
        self.ignored_labels, self.router_logits = IgnoredLabels(), RouterLogits(parts)
        self.added = Installation()
        self.probes: list[Probe] = []
        self.vision, self.text_tower = None, text_tower
        if plan.method.requires_vision:
            self.vision = VisionReader(parts, str(plan.method), text_tower)
        self.once = EncodeOnce(parts) if encode_once else None
        self.how_fast = fast
        self.fast: FastPath | None = None
        try:
            self.install()
        except BaseException:
            self.remove()
            raise

    def install(self) -> None:
        """Register everything; each step leaves its own undoing behind."""
        parts, hook = self.parts, self.added.hook
        around = dict.fromkeys((parts.given, parts.model, parts.base, parts.decoder))
        refuse_fullgraph((*around, *parts.layers))
        # First to come, last to go: `restore` finds all the rest by it.
        self.added.attribute(parts.decoder, MARK, self)
        generate = getattr(parts.model, "generate", None)
        if generate is not None:
            watched = self.generating.watch(generate, self.reader.has_pictures, self.forget_pictures)
            self.added.attribute(parts.model, "generate", watched)
        if hasattr(parts.model, "init_continuous_batching"):
            self.added.attribute(parts.model, "init_continuous_batching", no_continuous_batching)
        for module in (*around, *parts.layers):
            self.added.attribute(module, "compile", without_fullgraph(module))
        for module in dict.fromkeys((parts.given, parts.model)):
            if module is not parts.decoder:
                hook(module, "forward_pre", self.see_arguments, with_kwargs=True)
                hook(module, "forward", self.forget, always_call=True)
        if parts.base is not parts.decoder:
            hook(parts.base, "forward_pre", self.enter_model, with_kwargs=True)
            hook(parts.base, "forward", self.forget, always_call=True)
        self.router_logits.install(self.added)
        hook(parts.decoder, "forward_pre", self.enter_decoder, with_kwargs=True)
        for i in sorted({0, *range(self.plan.first_pruned, len(parts.layers))}):
            hook(parts.layers[i], "forward_pre", self.layer_entrance(i), with_kwargs=True)
        hook(parts.layers[-1], "forward", self.leave_layers)
        hook(parts.decoder, "forward", self.leave_decoder)
        hook(parts.decoder, "forward", self.forget, always_call=True)
        self.implementation = attention_implementation(parts.decoder)
        self.probe()
        if self.vision is not None:
            self.vision.install(self.added)
        if self.once is not None:
            self.once.install(self.added)
        if self.how_fast is not None:
            self.fast = FastPath(parts, self.plan, self.how_fast, lambda: self.forward, self.added)

    def remove(self) -> None:
        """Take everything back; safe to call twice."""
        self.added.remove()
        self.probes = []
        self.call = self.reader.call = Call()

    def probe(self) -> None:
        """Listen to the attention that is read; adapters may bring other copies of it at any time."""
        for i in self.plan.read:
            for attention in copies_of(self.parts.attention(i)):
                if not probed(attention):
                    self.probes.append(Probe(attention, i, self.observe, self.added))

    def follow(self) -> None:
        """Go along with an attention implementation that was set since the last forward.

        Raises:
            UnsupportedModelError: if it cannot be pruned.
        """
        check_implementation(self.parts.decoder, self.parts.kinds, self.plan.method.weights_keys)
        for probe in self.probes:
            probe.follow()
        self.implementation = attention_implementation(self.parts.decoder)

    @property
    def forward(self) -> ForwardState | None:
        """The forward in flight in this thread."""
        return self.call.forward

    # -- in the order of a forward ----------------------------------------------------------------------------

    def see_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Labels stay with the outermost model; which of them count is decided inside."""
        refuse_tracing()
        inner = self.parts.model
        given = by_name(module, args, kwargs, inner)
        unlock(cache_among(given), self.plan.filled_by)
        self.call.asked = self.call.asked or asks_for_outputs(module, given)
        self.call.labels = labels = Labels.of(given)
        return None if labels is None else replaced(module, args, kwargs, labels.given, inner)

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the token ids before the picture is encoded."""
        given = by_name(module, args, kwargs)
        unlock(cache_among(given), self.plan.filled_by)
        ids = given.get("input_ids", args[0] if args else None)
        past = cached_length(cache_among(given))
        if ids is None and isinstance(given.get("inputs_embeds"), Tensor):
            ids = self.generating.ids_of(past, given["inputs_embeds"])
        self.call.layout, self.call.ids = self.reader.of_ids(ids, past, given), ids

    def enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open a forward if this one prunes, or reads a cache that was pruned."""
        refuse_tracing()
        self.call.forward = None  # an interrupted one is not told that it is over
        if self.timing:
            self.call.started = self.plan.clock.now()
        with self.plan.clock(REST):
            return self.open_forward(module, args, kwargs)

    def open_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the decoder's entrance does; layers find it in :attr:`forward`."""
        if attention_implementation(module) != self.implementation:
            self.follow()
        given = by_name(module, args, kwargs)
        x = given.get("inputs_embeds")
        if x is None:
            x = given.get("input_ids", args[0] if args else None)
            if not isinstance(x, Tensor):
                return None
        cache = self.call.cache = cache_among(given)
        unlock(cache, self.plan.filled_by)
        past, (batch, length) = cached_length(cache), x.shape[:2]
        layout = self.reader.at_decoder(module, x, past, given)
        self.call.layout = None
        forward = ForwardState(self.plan, cache, past, length, batch, x.device, given.get("position_ids"))
        forward.asked = self.call.asked or asks_for_outputs(module, given)
        if layout is not None:
            self.probe()
            forward.activate(layout)
            if forward.active:
                check_cache(cache, self.plan.first_pruned)
                forward.checkpointed = is_checkpointed(module)
                if self.vision is not None and forward.rows is not None:
                    with self.plan.clock("vision"):
                        rows, regions = forward.rows, len(forward.sizes)
                        asked = self.questions(rows, regions)
                        forward.vision = self.vision.take(x, rows.visual, asked, rows.region)
        if layout is not None or was_pruned(cache):
            self.call.forward = forward
        last = given.get("logits_to_keep")
        if forward.active and isinstance(last, int) and last > forward.kept_end:
            # A decoder that continues with that many last rows would take the wrong ones.
            return replaced(module, args, kwargs, {"logits_to_keep": 0})
        return None

    def questions(self, rows: Rows, regions: int) -> list[list[str]]:
        """What is asked of each sample of a prompt, for each of the ``regions``; none without a text tower."""
        if self.text_tower is None:
            return []
        known = (self.text_tower, self.call.questions, self.call.ids)
        samples, method = self.generating.samples, str(self.plan.method)
        return [questions_of(*known, rows.of(i)[1], samples, method) for i in range(regions)]

    def observe(self, layer: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        """What the probe of a pruning layer shows."""
        if self.forward is not None:
            with self.plan.clock(REST):
                self.forward.observe(layer, query, key, mask, kwargs)

    def layer_entrance(self, index: int) -> Callable[..., Any]:
        """The pre-hook of one layer."""

        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            forward = self.forward
            if forward is None:
                return None
            with self.plan.clock(REST):
                return forward.enter_call(index, args, kwargs)

        return enter_layer

    def leave_layers(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Give the last layer's output the length of the input."""
        forward = self.forward
        if forward is None or not forward.active:
            return None
        with self.plan.clock(REST):
            if isinstance(output, tuple):
                return (forward.leave(output[0]), *output[1:])
            return forward.leave(output)

    def leave_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hand over the record."""
        forward, record = self.forward, None
        with self.plan.clock(REST):
            if forward is not None:
                record = forward.finish()
                widen_outputs(output, forward)
                self.router_logits.leave_decoder(output, forward)
                self.ignored_labels.apply(self.call.labels, forward.dropped)
                sign(forward.cache, self.plan.filled_by)
        ms = 1e3 * (self.plan.clock.now() - self.call.started) if self.timing else None
        self.done(record, ms, None if self.fast is None or record is None else self.fast.use)

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forget the forward, also after an exception."""
        lock(self.call.cache if self.forward is None else self.forward.cache)
        self.call.over()
        if not self.generating.within:  # which encodes pictures once, and may want them several times
            self.forget_pictures()

    def forget_pictures(self) -> None:
        """Drop the values that were read from the vision tower."""
        if self.vision is not None:
            self.vision.forget()
