"""``sparsify()``: install sparsification on a model, and undo it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparseSightError, UnsupportedModelError
from ..methods import Method, make_method
from ..metrics import DecoderShape, Latency, Report, batch_report
from .cache import check_cache, pruned_layer
from .families import Anatomy, anatomy, attention_implementation
from .forward import Forward, Layout, Plan, Record, Trace
from .probe import Probe

VisualMask = Tensor | Callable[[Tensor], Tensor]
MARK = "_sparsesight_handle"  # attribute of a decoder while a handle is installed on it


def sparsify(
    model: nn.Module,
    method: Method | str = "sparsevlm+",
    *,
    visual_mask: VisualMask | None = None,
    timing: bool = False,
    trace: bool = False,
    **options: Any,
) -> Sparsified:
    """Let a vision-language model drop visual tokens between its decoder layers, guided by the question.

    Works at once and until :meth:`Sparsified.restore`, or as a context manager::

        with sparsify(model, "sparsevlm+", retain=64) as run:
            output = model.generate(**inputs)
        print(run.report)

    Args:
        model: a transformers vision-language model, or with ``visual_mask`` any transformers decoder.
        method: a :class:`~sparsesight.methods.Method`, or the name of one (then ``options`` are its fields).
        visual_mask: for models that pass ``inputs_embeds`` only: boolean [b, n] (or [n], or a callable from the
            embeddings [b, n, c] to it), true on visual tokens of the prompt. Default: the model's placeholder ids.
        timing: measure prefill and decode latency for the report; waits for the device around every forward.
        trace: keep what every stage of the last prefill saw and decided in :attr:`Sparsified.trace` (memory!).
        **options: fields of the method, such as ``retain=64``.

    Returns:
        The handle; it is also a context manager.

    Raises:
        SparseSightError: unknown method or option, a budget no picture can meet, a model that is already sparsified.
        UnsupportedModelError: a model without visual tokens, or one that cannot be pruned; the reason is named.
    """
    return Sparsified(model, make_method(method, **options), visual_mask, timing, trace)


class Sparsified:
    """Handle of an installed sparsification.

    Attributes:
        method: the method in use.
        layers: 0-based decoder layers after which it prunes.
    """

    def __init__(
        self, model: nn.Module, method: Method, visual_mask: VisualMask | None, timing: bool, trace: bool
    ) -> None:
        parts = anatomy(model)
        if not parts.visual_ids and visual_mask is None:
            raise UnsupportedModelError(
                f"model={type(model).__name__} has no visual tokens: pass a vision-language model, or visual_mask=... "
                "for a language model that gets pictures through inputs_embeds"
            )
        if getattr(parts.decoder, MARK, None) is not None:
            raise SparseSightError(
                f"model={type(model).__name__} is already sparsified: restore() the first handle"
            )
        if method.positions == "compact" and not hasattr(parts.decoder, "rotary_emb"):
            raise UnsupportedModelError(
                "positions='compact' needs a rotary decoder: use positions='original'"
            )
        self.method = method
        self.layers = method.stage_layers(len(parts.layers), parts.prunable)
        self.shape = DecoderShape.of(parts.decoder)
        self._timing, self._parts, self._visual_mask = timing, parts, visual_mask
        self._local = threading.local()  # forwards in flight, one per thread
        self._last: Record | None = None
        self._latency = Latency()
        self.sections: dict[str, float] | None = None
        self._plan = Plan(
            method=method,
            decoder=parts.decoder,
            num_layers=len(parts.layers),
            stages=self.layers,
            flash="flash" in attention_implementation(parts.decoder),
            clock=self._clock,
            keep_trace=trace,
        )
        self._undo: list[Callable[[], object]] = []
        try:
            self._install()
        except BaseException:
            self.restore()
            raise

    # -- use --------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What the last prefill cost and saved, printable and JSON-ready.

        Raises:
            SparseSightError: before the model has run.
        """
        if self._last is None:
            raise SparseSightError("report: the model has not run yet")
        last = self._last
        return batch_report(
            method=self.method.to_dict(),
            shape=self.shape,
            layers=self.layers,
            visual=last.layout.visual,
            text=last.layout.text,
            length=last.layout.length,
            width=last.width,
            tokens_out=last.tokens_out,
            recycled=last.recycled,
            past=last.past,
            latency=self._latency,
        )

    @property
    def kept(self) -> list[list[Tensor]]:
        """Kept visual tokens of the last prefill: ``kept[stage][sample]`` are sorted indices (int64, on the CPU)
        among that sample's visual tokens, all its pictures counted through. Merged tokens are not in it.

        A prefill that ran dense has no stages.
        """
        if self._last is None:
            raise SparseSightError("kept: the model has not run yet")
        stages = ((o.cpu(), k.cpu()) for o, k in self._last.kept)
        return [
            [o[k & (o >= 0)].clone() for o, k in zip(origin, keep, strict=True)] for origin, keep in stages
        ]

    @property
    def trace(self) -> list[Trace]:
        """What each stage of the last prefill saw and decided; empty unless asked for with ``trace=True``."""
        return self._last.trace if self._last is not None else []

    def restore(self) -> None:
        """Give the model back exactly as it was; safe to call twice."""
        while self._undo:
            self._undo.pop()()
        self._local = threading.local()

    def __enter__(self) -> Sparsified:
        if not self._undo:
            raise SparseSightError("this handle was restored: call sparsify() again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()

    @contextmanager
    def measure_sections(self) -> Any:
        """Within it, ``sections`` collects seconds spent in raters, scoring, gather and masks (synchronising)."""
        self.sections = {}
        try:
            yield self.sections
        finally:
            self.sections = None

    # -- installation -----------------------------------------------------------------------------------------

    def _install(self) -> None:
        parts: Anatomy = self._parts
        setattr(parts.decoder, MARK, self)
        self._undo.append(lambda: delattr(parts.decoder, MARK))

        def hook(register: Callable[..., Any], function: Callable[..., Any], **how: Any) -> None:
            self._undo.append(register(function, **how).remove)

        if parts.base is not parts.decoder:
            hook(parts.base.register_forward_pre_hook, self._enter_model, with_kwargs=True)
        hook(parts.decoder.register_forward_pre_hook, self._enter_decoder, with_kwargs=True)
        for i in range(self.layers[0] + 1, len(parts.layers)):
            hook(parts.layers[i].register_forward_pre_hook, self._layer_hook(i), with_kwargs=True)
        hook(parts.layers[-1].register_forward_hook, self._leave_layers)
        hook(parts.decoder.register_forward_hook, self._leave_decoder)
        hook(parts.decoder.register_forward_hook, self._clear, always_call=True)
        for i in self.layers:
            self._undo.append(Probe(parts.attention(i), i, self._observe).remove)

    # -- hooks ------------------------------------------------------------------------------------------------

    def _enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the token ids before the picture is encoded."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        self._local.layout = None
        if self._visual_mask is None and isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] > 1:
            visual = torch.zeros_like(ids, dtype=torch.bool)
            for token in self._parts.visual_ids:
                visual |= ids == token
            self._local.layout = Layout.of(visual, _valid_rows(kwargs.get("attention_mask"), visual))

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._timing:
            self._synchronise()
            self._local.started = time.perf_counter()
        x = kwargs.get("inputs_embeds")
        if x is None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if not isinstance(ids, Tensor):
                return
            x = module.get_input_embeddings()(ids)  # type: ignore[operator]
        cache = kwargs.get("past_key_values")
        batch, length = x.shape[:2]
        layout = getattr(self._local, "layout", None)
        self._local.layout = None
        if self._visual_mask is not None and length > 1:
            layout = self._layout_from_mask(x, kwargs.get("attention_mask"))
        past = int(cache.get_seq_length()) if cache is not None else 0
        forward = Forward(self._plan, cache, past, length, batch, x.device, kwargs.get("position_ids"))
        if layout is not None:
            if any(layout.prunable):
                check_cache(cache, self.layers[0] + 1)
            forward.activate(layout, x)
        if layout is not None or pruned_layer(cache, len(self._parts.layers) - 1) is not None:
            self._local.forward = forward

    def _layer_hook(self, index: int) -> Callable[..., Any]:
        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            forward = getattr(self._local, "forward", None)
            if forward is None:
                return None
            changed = forward.enter(index, args[0] if args else kwargs["hidden_states"], kwargs)
            if changed is None:
                return None
            hidden, kwargs = changed
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        return enter_layer

    def _observe(self, layer: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        forward = getattr(self._local, "forward", None)
        if forward is not None:
            forward.observe(layer, query, key, mask, kwargs)

    def _leave_layers(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        forward = getattr(self._local, "forward", None)
        if forward is None or not forward.active:
            return None
        if isinstance(output, tuple):
            return (forward.leave(output[0]), *output[1:])
        return forward.leave(output)

    def _leave_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        forward: Forward | None = getattr(self._local, "forward", None)
        record = forward.finish() if forward is not None else None
        if self._timing:
            self._synchronise()
            self._latency.add(1e3 * (time.perf_counter() - self._local.started), record is not None)
        if record is not None:
            self._last = record

    def _clear(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._local.forward = self._local.layout = None

    # -- helpers ----------------------------------------------------------------------------------------------

    def _layout_from_mask(self, x: Tensor, attention_mask: Any) -> Layout | None:
        mask = self._visual_mask(x) if callable(self._visual_mask) else self._visual_mask
        assert mask is not None
        mask = (mask if mask.ndim == 2 else mask[None]).to(x.device)
        if mask.dtype != torch.bool or (mask.shape[0] not in (1, x.shape[0]) and x.shape[0] % mask.shape[0]):
            raise SparseSightError(
                f"visual_mask: expected boolean [batch, length], got {mask.dtype} {list(mask.shape)} for "
                f"{list(x.shape[:2])} tokens"
            )
        if mask.shape[1] != x.shape[1]:
            return None  # a later turn, or another prompt: the mask is not about these tokens
        mask = mask.repeat_interleave(x.shape[0] // mask.shape[0], 0)  # beams of a sample follow one another
        return Layout.of(mask, _valid_rows(attention_mask, mask))

    def _synchronise(self) -> None:
        device = next(self._parts.decoder.parameters()).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def _clock(self, section: str) -> AbstractContextManager[None]:
        return nullcontext() if self.sections is None else self._timed(section, self.sections)

    @contextmanager
    def _timed(self, section: str, into: dict[str, float]) -> Any:
        self._synchronise()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            into[section] = into.get(section, 0.0) + time.perf_counter() - start


def _valid_rows(attention_mask: Any, like: Tensor) -> Tensor:
    """Which of the current input's tokens are not padding, from a 2D mask over past and present; else all."""
    if (
        isinstance(attention_mask, Tensor)
        and attention_mask.ndim == 2
        and attention_mask.shape[1] >= like.shape[1]
    ):
        return attention_mask[:, attention_mask.shape[1] - like.shape[1] :].to(like.device).bool()
    return torch.ones_like(like, dtype=torch.bool)
