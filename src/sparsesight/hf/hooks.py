"""The hooks that let a decoder run with fewer tokens, and their undoing.

A forward passes them in this order: the model's entrance (token ids, before the picture is encoded), the decoder's
entrance, the first layer's entrance (embeddings: raters are chosen), the attention of pruning layers (the probe), the
entrance of every layer after the first stage, the last layer's exit, the decoder's exit. What one forward knows is in
:class:`Forward`, one per thread; it is gone when the decoder returns or raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparseSightError, UnsupportedModelError
from .cache import check_cache, was_pruned
from .families import Anatomy
from .forward import Forward
from .layout import Layout, Plan, Record
from .probe import Probe

VisualMask = Tensor | Callable[[Tensor], Tensor]
MARK = "_sparsesight_hooks"  # attribute of a decoder while hooks are installed on it


class Hooks:
    """Installs itself on a model; ``remove`` takes everything back.

    Args:
        parts: of the model.
        plan: what to do.
        visual_mask: the user's own, or None for placeholder ids.
        done: called after every forward of the decoder with its record (None if it was no prefill) and milliseconds
            (None unless ``timing``).
        timing: whether to wait for the device and measure.

    Raises:
        SparseSightError: if the decoder already has hooks; nothing is installed then.
    """

    def __init__(
        self,
        parts: Anatomy,
        plan: Plan,
        visual_mask: VisualMask | None,
        done: Callable[[Record | None, float | None], None],
        timing: bool,
    ) -> None:
        if getattr(parts.decoder, MARK, None) is not None:
            raise SparseSightError(
                f"model={type(parts.model).__name__} is already sparsified: restore() the first handle"
            )
        self.parts, self.plan, self.visual_mask = parts, plan, visual_mask
        self.done, self.timing = done, timing
        self.local = threading.local()
        self.undo: list[Callable[[], object]] = []
        try:
            self.install()
        except BaseException:
            self.remove()
            raise

    def install(self) -> None:
        """Register everything; each step leaves its own undoing behind."""
        parts = self.parts
        setattr(parts.decoder, MARK, self)
        self.undo.append(lambda: delattr(parts.decoder, MARK))

        def hook(register: Callable[..., Any], function: Callable[..., Any], **how: Any) -> None:
            self.undo.append(register(function, **how).remove)

        if parts.base is not parts.decoder:
            hook(parts.base.register_forward_pre_hook, self.enter_model, with_kwargs=True)
        hook(parts.decoder.register_forward_pre_hook, self.enter_decoder, with_kwargs=True)
        hook(parts.layers[0].register_forward_pre_hook, self.enter_layers, with_kwargs=True)
        for i in range(self.plan.stages[0] + 1, len(parts.layers)):
            hook(parts.layers[i].register_forward_pre_hook, self.layer_entrance(i), with_kwargs=True)
        hook(parts.layers[-1].register_forward_hook, self.leave_layers)
        hook(parts.decoder.register_forward_hook, self.leave_decoder)
        hook(parts.decoder.register_forward_hook, self.forget, always_call=True)
        for i in self.plan.stages:
            self.undo.append(Probe(parts.attention(i), i, self.observe).remove)

    def remove(self) -> None:
        """Undo in reverse order; safe to call twice."""
        while self.undo:
            self.undo.pop()()
        self.local = threading.local()

    @property
    def forward(self) -> Forward | None:
        """The forward in flight in this thread."""
        return getattr(self.local, "forward", None)

    # -- in the order of a forward ----------------------------------------------------------------------------

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the token ids before the picture is encoded."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.local.layout = None
        if self.visual_mask is None and isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] > 1:
            visual = torch.zeros_like(ids, dtype=torch.bool)
            for token in self.parts.visual_ids:
                visual |= ids == token
            self.local.layout = Layout.of(visual, valid_rows(kwargs.get("attention_mask"), visual))

    def enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open a forward if this one prunes, or reads a cache that was pruned."""
        if self.timing:
            self.local.started = self.plan.clock.now()
        x = kwargs.get("inputs_embeds")
        if x is None:
            x = kwargs.get("input_ids", args[0] if args else None)
            if not isinstance(x, Tensor):
                return None
        cache = kwargs.get("past_key_values")
        batch, length = x.shape[:2]
        layout = getattr(self.local, "layout", None)
        self.local.layout = None
        if self.visual_mask is not None and length > 1:
            if callable(self.visual_mask) and not x.is_floating_point():
                x = module.get_input_embeddings()(x)  # type: ignore[operator]
            layout = self.layout_from_mask(x, kwargs.get("attention_mask"))
        past = int(cache.get_seq_length()) if cache is not None else 0
        forward = Forward(self.plan, cache, past, length, batch, x.device, kwargs.get("position_ids"))
        if layout is not None:
            forward.activate(layout)
            if forward.active:
                check_cache(cache, self.plan.stages[0] + 1)
                if module.training and getattr(module, "gradient_checkpointing", False):
                    raise UnsupportedModelError(
                        "gradient checkpointing runs layers again without their rows: call "
                        "model.gradient_checkpointing_disable() while sparsified"
                    )
        if layout is not None or was_pruned(cache):
            self.local.forward = forward
        last = kwargs.get("logits_to_keep")
        if forward.active and isinstance(last, int) and last > forward.kept_end:
            # A decoder that goes on with so many last rows would take others than are meant.
            return args, {**kwargs, "logits_to_keep": 0}
        return None

    def enter_layers(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See what enters the first layer: raters are chosen by it."""
        if self.forward is not None:
            self.forward.rate(args[0] if args else kwargs["hidden_states"])

    def observe(self, layer: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        """What the probe of a pruning layer shows."""
        if self.forward is not None:
            self.forward.observe(layer, query, key, mask, kwargs)

    def layer_entrance(self, index: int) -> Callable[..., Any]:
        """The pre-hook of one layer."""

        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            forward = self.forward
            if forward is None:
                return None
            more = {str(i): arg for i, arg in enumerate(args[1:])}
            changed = forward.enter(index, args[0] if args else kwargs["hidden_states"], {**more, **kwargs})
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
        if isinstance(output, tuple):
            return (forward.leave(output[0]), *output[1:])
        return forward.leave(output)

    def leave_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hand over what is to be remembered."""
        record = self.forward.finish() if self.forward is not None else None
        self.done(record, 1e3 * (self.plan.clock.now() - self.local.started) if self.timing else None)

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Also after an exception: nothing of a forward outlives it."""
        self.local.forward = self.local.layout = None

    def layout_from_mask(self, x: Tensor, attention_mask: Any) -> Layout | None:
        """The layout by the user's own visual mask; None if that is not about these tokens.

        Raises:
            SparseSightError: if the mask is not boolean, or its batch does not go with the prompt's.
        """
        mask = self.visual_mask(x) if callable(self.visual_mask) else self.visual_mask
        assert mask is not None
        mask = (mask if mask.ndim == 2 else mask[None]).to(x.device)
        if mask.dtype != torch.bool or x.shape[0] % mask.shape[0]:
            raise SparseSightError(
                f"visual_mask: expected boolean [batch, length], got {mask.dtype} {list(mask.shape)} for "
                f"{list(x.shape[:2])} tokens"
            )
        if mask.shape[1] != x.shape[1]:
            return None  # a later turn, or another prompt
        mask = mask.repeat_interleave(x.shape[0] // mask.shape[0], 0)  # beams of a sample follow one another
        return Layout.of(mask, valid_rows(attention_mask, mask))


def valid_rows(attention_mask: Any, like: Tensor) -> Tensor:
    """Which of the current input's tokens are not padding, from a 2D mask over past and present; else all."""
    if (
        isinstance(attention_mask, Tensor)
        and attention_mask.ndim == 2
        and attention_mask.shape[1] >= like.shape[1]
    ):
        return attention_mask[:, attention_mask.shape[1] - like.shape[1] :].to(like.device).bool()
    return torch.ones_like(like, dtype=torch.bool)
