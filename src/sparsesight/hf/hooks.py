"""The hooks that let a decoder run with fewer tokens, and their undoing.

A forward passes them in this order: the model's entrance (token ids, before the picture is encoded), the decoder's
entrance, the first layer's entrance (embeddings: a stage before it acts, then raters are chosen), the attention of
pruning layers (the probe), the entrance of every layer after the first stage, the last layer's exit, the decoder's
exit. What one forward knows is in
:class:`ForwardState`, one per thread; it is gone when the decoder returns or raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..core.budget import BEFORE
from ..core.regions import Marks
from ..core.rows import Rows
from ..errors import SparseSightError
from ..profiling.sections import LAYOUT
from .cache import cached_length, check_cache, was_pruned
from .cache_lock import lock, sign, unlock
from .compiled.dispatch import FastPath
from .compiled.options import Fast, FastUse
from .families import ModelParts, attention_implementation, check_implementation, copies_of
from .install import Installation
from .outputs import widen_outputs
from .probe import Probe, probed
from .prompt.answers import IgnoredLabels, Labels, prompt_end
from .prompt.frames import FrameRule, Frames
from .prompt.generation import Generating, no_continuous_batching
from .prompt.inputs import among, asks_for_outputs, is_checkpointed, refuse_tracing, valid_rows
from .prompt.layout import Layout, Plan, Record
from .prompt.turns import Turns, marks_of
from .prompt.visual_mask import VisualMask, cannot_tell, layout_as_given
from .restore import MARK
from .router_logits import RouterLogits
from .state import ForwardState
from .vision.reader import VisionReader
from .vision.text_tower import TextTower, questions_of

REST = "rest"  # see `clock.PARTS`


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

    Raises:
        SparseSightError: if the decoder already has hooks; nothing is installed then.
    """

    def __init__(
        self,
        parts: ModelParts,
        plan: Plan,
        visual_mask: VisualMask | None,
        done: Callable[[Record | None, float | None, FastUse | None], None],
        timing: bool,
        text_tower: TextTower | None = None,
        fast: Fast | None = None,
        turns: Turns | None = None,
    ) -> None:
        if getattr(parts.decoder, MARK, None) is not None:
            raise SparseSightError(
                f"model={type(parts.model).__name__} is already sparsified: restore() the first handle, or "
                "call sparsesight.restore(model) if it is lost"
            )
        self.parts, self.plan, self.visual_mask = parts, plan, visual_mask
        self.frame_rule = FrameRule.of(parts.model.config)
        self.done, self.timing = done, timing
        self.local = threading.local()
        self.generating = Generating()
        self.ignored_labels, self.router_logits = IgnoredLabels(), RouterLogits(parts)
        self.added = Installation()
        self.probes: list[Probe] = []
        self.vision, self.text_tower = None, text_tower
        self.turns = turns if plan.method.judged_by == "turn" else None
        if plan.method.requires_vision:
            self.vision = VisionReader(parts, str(plan.method), text_tower)
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
        # First to come, last to go: `restore` finds all the rest by it.
        self.added.attribute(parts.decoder, MARK, self)
        generate = getattr(parts.model, "generate", None)
        if generate is not None:
            watched = self.generating.watch(generate, self.has_pictures, self.forget_pictures)
            self.added.attribute(parts.model, "generate", watched)
        if hasattr(parts.model, "init_continuous_batching"):
            self.added.attribute(parts.model, "init_continuous_batching", no_continuous_batching)
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
        if self.how_fast is not None:
            self.fast = FastPath(parts, self.plan, self.how_fast, lambda: self.forward, self.added)

    def remove(self) -> None:
        """Take everything back; safe to call twice."""
        self.added.remove()
        self.probes = []
        self.local = threading.local()

    def probe(self) -> None:
        """Listen to the attention of pruning layers; adapters may bring other copies of it at any time."""
        for i in self.plan.stages:
            for attention in copies_of(self.parts.attention(i)) if i != BEFORE else ():
                if not probed(attention):
                    self.probes.append(Probe(attention, i, self.observe, self.added))

    def follow(self) -> None:
        """Go along with an attention implementation that was set since the last forward.

        Raises:
            UnsupportedModelError: if it cannot be pruned.
        """
        check_implementation(self.parts.decoder, self.parts.kinds)
        for probe in self.probes:
            probe.follow()
        self.implementation = attention_implementation(self.parts.decoder)

    def has_pictures(self, ids: Any) -> bool:
        """Whether a prompt of these token ids (None if it is embeddings) has visual tokens."""
        if self.visual_mask is not None or not isinstance(ids, Tensor) or ids.is_floating_point():
            return self.visual_mask is not None
        return bool(among(ids, self.parts.visual_ids).any())

    @property
    def forward(self) -> ForwardState | None:
        """The forward in flight in this thread."""
        return getattr(self.local, "forward", None)

    # -- in the order of a forward ----------------------------------------------------------------------------

    def see_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Labels stay with the outermost model; which of them count is decided inside."""
        refuse_tracing()
        unlock(kwargs.get("past_key_values"), self.plan.filled_by)
        self.local.asked = getattr(self.local, "asked", None) or asks_for_outputs(module, kwargs)
        self.local.labels = labels = Labels.of(kwargs)
        return None if labels is None else (args, {**kwargs, **labels.given})

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the token ids before the picture is encoded."""
        unlock(kwargs.get("past_key_values"), self.plan.filled_by)
        ids = kwargs.get("input_ids", args[0] if args else None)
        past = cached_length(kwargs.get("past_key_values"))
        if ids is None and isinstance(kwargs.get("inputs_embeds"), Tensor):
            ids = self.generating.ids_of(past, kwargs["inputs_embeds"])
        self.local.layout, self.local.ids = None, ids
        if self.visual_mask is None and isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] > 1:
            prompt = self.generating.prompt_columns(past, ids.shape[1])
            if not prompt:
                return
            with self.plan.clock(LAYOUT):
                valid = valid_rows(kwargs.get("attention_mask"), ids)
                visual = among(ids, self.parts.visual_ids) & valid
                video = among(ids, self.frame_rule.video_ids) & visual
                frames = Frames.of(visual, video, self.frame_rule, kwargs)
                marks = self.marks(ids, kwargs, valid)
                self.local.layout = Layout.of(valid, frames, self.prompt_end(visual, prompt), marks)

    def prompt_end(self, visual: Tensor, prompt: int) -> int | Tensor:
        """The column at which the prompt ends: ``prompt``, as far as ``generate()`` knows."""
        said, labels = getattr(self.local, "ends", None), getattr(self.local, "labels", None)
        return prompt if self.generating.within else prompt_end(visual, said, labels)

    def marks(self, ids: Any, call: dict[str, Any], valid: Tensor) -> Marks | None:
        """What marks turns and packed documents in a prompt; None if nothing does."""
        labels, plain = getattr(self.local, "labels", None), not self.generating.within
        return marks_of(self.turns, ids, call if plain else {}, labels if plain else None, valid)

    def enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open a forward if this one prunes, or reads a cache that was pruned."""
        refuse_tracing()
        self.local.forward = None  # an interrupted one is not told that it is over
        if self.timing:
            self.local.started = self.plan.clock.now()
        with self.plan.clock(REST):
            return self.open_forward(module, args, kwargs)

    def open_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the decoder's entrance does; layers find it in :attr:`forward`."""
        if attention_implementation(module) != self.implementation:
            self.follow()
        x = kwargs.get("inputs_embeds")
        if x is None:
            x = kwargs.get("input_ids", args[0] if args else None)
            if not isinstance(x, Tensor):
                return None
        cache = self.local.cache = kwargs.get("past_key_values")
        unlock(cache, self.plan.filled_by)
        batch, length = x.shape[:2]
        layout, ids, given = (getattr(self.local, name, None) for name in ("layout", "ids", "given"))
        self.local.layout = None
        past, mask = cached_length(cache), kwargs.get("attention_mask")
        prompt = self.generating.prompt_columns(past, length)
        if length > 1 and (self.visual_mask is not None or given is not None):
            known = partial(self.marks, ids if x.is_floating_point() else x, kwargs)
            if callable(self.visual_mask) and not x.is_floating_point():
                x = module.get_input_embeddings()(x)  # type: ignore[operator]
            layout = layout_as_given(given, self.visual_mask, x, mask, past, prompt, self.prompt_end, known)
        elif length > 1 and not past and prompt and ids is None and x.is_floating_point():
            raise cannot_tell(self.parts.model)
        if layout is None and prompt and (length > 1 or not past) and not (past and given is not None):
            layout = Layout.dense(valid_rows(mask, x[..., 0] if x.is_floating_point() else x))
        forward = ForwardState(self.plan, cache, past, length, batch, x.device, kwargs.get("position_ids"))
        forward.asked = getattr(self.local, "asked", False) or asks_for_outputs(module, kwargs)
        if layout is not None:
            self.probe()
            forward.activate(layout)
            if forward.active:
                # Continuous batching gives its cache another name.
                check_cache(kwargs.get("cache", cache), self.plan.first_pruned)
                forward.checkpointed = is_checkpointed(module)
                if self.vision is not None and forward.rows is not None:
                    with self.plan.clock("vision"):
                        rows, regions = forward.rows, len(forward.sizes)
                        asked = self.questions(rows, regions)
                        forward.vision = self.vision.take(x, rows.visual, asked, rows.region)
        if layout is not None or was_pruned(cache):
            self.local.forward = forward
        last = kwargs.get("logits_to_keep")
        if forward.active and isinstance(last, int) and last > forward.kept_end:
            # A decoder that goes on with so many last rows would take others than are meant.
            return args, {**kwargs, "logits_to_keep": 0}
        return None

    def questions(self, rows: Rows, regions: int) -> list[list[str]]:
        """What is asked of each sample of a prompt, for each of the ``regions``; none without a text tower."""
        tower = self.text_tower
        if tower is None:
            return []
        given, ids = getattr(self.local, "questions", None), getattr(self.local, "ids", None)
        return [
            questions_of(tower, given, ids, rows.of(i)[1], self.generating.samples, str(self.plan.method))
            for i in range(regions)
        ]

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
                return entered(forward, args, kwargs)

        def entered(forward: ForwardState, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            more = {str(i): arg for i, arg in enumerate(args[1:])}
            given = {**more, **kwargs}
            changed = forward.enter(index, args[0] if args else given.pop("hidden_states"), given)
            if changed is None:
                return None
            hidden, kwargs = changed
            if args:
                return (hidden, *(kwargs.pop(i) for i in more)), kwargs
            return args, {**kwargs, "hidden_states": hidden}

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
        """Hand over what is to be remembered."""
        forward, record = self.forward, None
        with self.plan.clock(REST):
            if forward is not None:
                record = forward.finish()
                widen_outputs(output, forward)
                self.router_logits.leave_decoder(output, forward)
                self.ignored_labels.apply(getattr(self.local, "labels", None), forward.dropped)
                sign(forward.cache, self.plan.filled_by)
        ms = 1e3 * (self.plan.clock.now() - self.local.started) if self.timing else None
        self.done(record, ms, None if self.fast is None or record is None else self.fast.use)

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Also after an exception: nothing of a forward outlives it."""
        lock(getattr(self.local, "cache", None) if self.forward is None else self.forward.cache)
        self.local.cache = None
        self.local.forward = self.local.layout = self.local.labels = self.local.asked = self.local.ids = None
        if not self.generating.within:  # which encodes pictures once, and may want them several times
            self.forget_pictures()

    def forget_pictures(self) -> None:
        """What the vision tower said of them."""
        if self.vision is not None:
            self.vision.forget()
