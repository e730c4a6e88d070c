"""Reads a vision tower's attention and assigns it to the visual tokens made from its patches.

A tower is read at the attention of its last used layer, while it runs; the values are carried to the output rows of the
projector, and the language model's visual tokens are recognised among those rows when it starts. ``generate()`` encodes
pictures before the model's own forward, and some families encode them one by one or twice: everything encoded since the
last prompt is kept, per thread, for the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.stage import Vision
from ...errors import SparseSightError, UnsupportedModelError
from ..install import Installation
from ..masks import mask_of_rows
from ..model_parts import ModelParts, attention_of, copies_of
from ..probe import Probe, probed
from .row_hash import find_rows, row_hashes
from .text_tower import TextTower
from .towers import INSTEAD, Tower, find_sight
from .tracing import RowTracer, TracedRows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_LOGITS = 1 << 22  # attention logits that are held at once where there is no class token


class _Local(threading.local):
    """What one thread has encoded since its last prompt."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.running: Tower | None = None
        self.read: list[
            tuple[Tensor, Tensor]
        ] = []  # of the layer that attends now, per call of its attention
        self.width = 0  # of a patch's row
        self.patches: list[TracedRows] = []
        self.projected = False  # whether these patches have been made into tokens
        self.tokens: list[TracedRows] = []


class VisionReader:
    """Reads the vision towers of a model.

    Args:
        parts: of the model.
        method: name of the method that needs it, for what is refused.
        text: embeds patches and questions, where the method compares them.

    Raises:
        UnsupportedModelError: if there is no tower that can be read, or nothing between it and the language model
            that makes tokens of patches; or if ``text`` is of another vision tower.
    """

    def __init__(self, parts: ModelParts, method: str, text: TextTower | None = None) -> None:
        self.method, self.model, self.text = method, type(parts.given).__name__, text
        self.sight = find_sight(parts, method)
        wide = [getattr(x.attention.config, "hidden_size", None) for x in self.sight.towers]
        if text is not None and set(wide) != {text.width}:
            raise UnsupportedModelError(
                f"text_tower goes with a vision tower of width {text.width}, but that of model={self.model} has "
                f"{wide[0]}: give the CLIP whose vision tower the model was built from"
            )
        words: Tensor = parts.decoder.get_input_embeddings().weight  # type: ignore[operator]
        self.dtype = words.dtype if words.is_floating_point() else None  # of the rows that enter the decoder
        self.local = _Local()
        self.probes: list[Probe] = []

    def install(self, added: Installation) -> None:
        """Put hooks and probes on towers and projector; they are ``added``, and go with it."""
        self.added, self.traced = added, list[nn.Module]()
        for number, tower in enumerate(self.sight.towers):
            added.hook(tower.module, "forward_pre", self._enter(number, tower))
            added.hook(tower.layer, "forward", self._leave_layer)
            # Before `once.EncodeOnce` repeats rows of which this saw one.
            added.hook(tower.module, "forward", self._leave, always_call=True, prepend=True)
            self._probe(number, tower)
        self._trace()

    def forget(self) -> None:
        """Drop what this thread has encoded."""
        self.local.clear()

    def take(
        self,
        embeddings: Float[Tensor, "b n c"],
        visual: Bool[Tensor, "b n"],
        questions: Sequence[Sequence[str]] = (),
        region: Int[Tensor, "b n"] | None = None,
    ) -> Vision:
        """The tower's values for the visual tokens among a prompt's rows, as they enter the decoder; 0 for other rows.

        Where there is a text tower, ``questions`` are one for each sample, per region number, and ``region`` says which
        one a row is of (None: there is one). Waits for the device once, to see that every visual token was found.

        Raises:
            SparseSightError: if their pictures were not encoded since the last prompt.
            UnsupportedModelError: if they were, but it is not known of which patches they are made.
        """
        local = self.local
        if not local.tokens and not local.patches:
            raise SparseSightError(
                f"{self.method} reads the vision tower while it encodes a prompt's pictures, and since the last prompt "
                "none was encoded: give the model pixel values, not features that were made earlier"
            )
        seen = TracedRows.joined(local.tokens or local.patches, embeddings.device)
        number = row_hashes(embeddings.flatten(0, 1)).view(visual.shape)
        place = find_rows(seen.number, number.flatten()).view(visual.shape)
        nothing = torch.zeros_like(visual)
        if self.sight.newline is not None:
            nothing = number == row_hashes(self.sight.newline.detach().to(embeddings)[None])
        lost, count = (
            torch.stack((visual & ~nothing & ((place < 0) | ~seen.known[place]), visual)).sum((1, 2)).tolist()
        )
        if lost:
            raise UnsupportedModelError(
                f"{self.method}: of {lost} of the {count} visual tokens of model={self.model} it is not known which "
                f"patches of its vision tower they are made of: {INSTEAD}"
            )
        attention = seen.attention[place].masked_fill(nothing, float("-inf")).masked_fill(~visual, 0)
        empty = ~visual | attention.isinf()
        relevance = None
        if self.text is not None:
            patch = torch.nn.functional.normalize(seen.embedding, dim=-1)[place]
            for i, of_samples in enumerate(questions):
                asked = self.text.texts(of_samples).to(embeddings.device).float()
                own = (patch * asked[:, None]).sum(-1)
                relevance = (
                    own if relevance is None or region is None else torch.where(region == i, own, relevance)
                )
            assert relevance is not None
            relevance = relevance.masked_fill(attention.isinf(), float("-inf")).masked_fill(~visual, 0)
        return Vision(attention, seen.key[place].masked_fill(empty[..., None], 0), relevance)

    # -- in the order of an encoding --------------------------------------------------------------------------

    def _probe(self, number: int, tower: Tower) -> None:
        """Listen to the attention of the layer that is read; adapters may bring other copies of it at any time."""
        for attention in copies_of(attention_of(tower.layer) or tower.attention):
            if not probed(attention):
                self.probes.append(Probe(attention, number, self._observe, self.added))

    def _trace(self) -> None:
        """Follow rows through the modules that make new ones of them, and through all copies that adapters made."""
        *between, projector = self.sight.makers
        for maker in (*between, projector):
            last = maker is projector
            for module in copies_of(maker):
                if not any(x is module for x in self.traced):
                    self.traced.append(module)
                    carrier = RowTracer(module, last and self.sight.several)
                    self.added.hook(module, "forward", self._pass(carrier, last), with_kwargs=True)

    def _enter(self, number: int, tower: Tower) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            local = self.local
            self._probe(number, tower)
            self._trace()
            for probe in self.probes:  # an attention implementation may have been set since
                if probe.private._attn_implementation != probe.config._attn_implementation:
                    probe.follow()
            if local.projected:
                local.patches, local.projected = [], False
            local.read, local.running = [], tower

        return enter

    def _observe(self, number: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        """What the probe shows: one call for all pictures, or one for each."""
        tower = self.local.running
        if tower is None or tower is not self.sight.towers[number]:
            return  # a layer that runs again for its gradient
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        bounds = kwargs.get("cu_seq_lens_q")  # FlashAttention takes all pictures as one sequence
        sizes = [query.shape[2]] if bounds is None else bounds.diff().tolist()
        with torch.no_grad():
            for q, k in zip(query.split(sizes, 2), key.split(sizes, 2), strict=True):
                attention = patch_attention(q, k, mask, scale, tower.class_token)
                self.local.read.append((attention.flatten(), k.float().mean(1).flatten(0, 1)))

    def _leave_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        local = self.local
        if local.running is not None and local.read:
            attention, key = (torch.cat(x) for x in zip(*local.read, strict=True))
            local.read = []
            rows = output[0] if isinstance(output, tuple) else output
            self._note(rows, attention, key, self._embed(rows.detach().reshape(-1, rows.shape[-1])))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Also after an exception. A tower's own output is what its last layer gave, normalised."""
        local = self.local
        tower, local.running, local.read = local.running, None, []
        rows = getattr(output, "last_hidden_state", None)
        if tower is not None and tower.last and local.patches and isinstance(rows, Tensor):
            of = local.patches[-1]
            self._note(rows, of.attention, of.key, of.embedding)

    def _embed(self, rows: Tensor) -> Tensor:
        """Rows of length one in the space of the text tower, so that each patch of a token counts the same."""
        if self.text is None:
            return rows.new_zeros(len(rows), 0, dtype=torch.float32)
        return torch.nn.functional.normalize(self.text.patches(rows).float(), dim=-1)

    def _note(self, rows: Tensor, attention: Tensor, key: Tensor, embedding: Tensor) -> None:
        """Keep the tower's rows in mind by their bits."""
        rows = rows.reshape(-1, rows.shape[-1])
        if len(rows) == len(attention):
            self.local.width = rows.shape[1]
            self.local.patches.append(
                TracedRows(row_hashes(rows), attention, key, embedding, torch.ones_like(attention).bool())
            )

    def _pass(self, carrier: RowTracer, last: bool) -> Callable[..., None]:
        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            local = self.local
            if not local.patches:
                return
            with torch.no_grad():
                seen = TracedRows.joined(local.patches, local.patches[-1].number.device)
                made = carrier.carry(seen, local.width, args, kwargs, output, self.dtype if last else None)
            if made is not None and last:
                local.projected = True
                local.tokens.append(made[0])
            elif made is not None:
                local.width = made[1]
                local.patches.append(made[0])

        return leave


def patch_attention(
    query: Float[Tensor, "b h n d"], key: Float[Tensor, "b g n d"], mask: Any, scale: float, class_token: bool
) -> Float[Tensor, "b n"]:
    """Attention that each row of a tower receives at one layer, averaged over heads, in float32.

    Args:
        query: of that layer, after what rotary embedding there is.
        key: the same; ``g`` heads that ``h`` queries share.
        mask: of that layer, in the form of its attention implementation; None if all see all.
        scale: of the logits.
        class_token: whether row 0 is one: what it gives, itself aside (-inf there). Otherwise what a row receives on
            average from all rows that may see it, computed for a few of them at a time.
    """
    b, h, n, _ = query.shape
    key = key.float().repeat_interleave(h // key.shape[1], 1).transpose(2, 3)

    def rows(row: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(query.device.type, enabled=False):
            logits = query[:, :, row].float() @ key * scale
        seen = _may_see(mask, row.expand(b, -1), n)
        if seen is None:
            return logits.softmax(-1), logits.new_ones(b, 1, len(row), n)
        bias = torch.where(seen, 0, float("-inf")) if seen.dtype == torch.bool else seen.float()
        # A row that sees nothing is padding.
        fine = bias > torch.finfo(torch.float16).min
        weight = (logits + bias).softmax(-1).masked_fill(~fine, 0)
        return weight, fine.float().expand(b, -1, len(row), -1)

    index = torch.arange(n, device=query.device)
    if class_token:
        given = rows(index[:1])[0][:, :, 0].mean(1)
        return given.masked_fill(index == 0, float("-inf"))
    total = query.new_zeros(b, n, dtype=torch.float32)
    seers = torch.zeros_like(total)
    for part in index.split(max(1, _LOGITS // (b * h * n))):
        weight, seen = rows(part)
        own = seen[:, 0].gather(2, part.expand(b, -1)[..., None])  # 0 on padding, which asks nothing
        total += (weight.mean(1) * own).sum(1)
        seers += (seen[:, 0] * own).sum(1)
    return total / seers.clamp(min=1)


def _may_see(mask: Any, row: Tensor, keys: int) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, None, None].bool()
    return mask_of_rows(mask, row, 0, keys)
