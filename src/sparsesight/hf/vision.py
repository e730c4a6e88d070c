"""What a vision tower attends to, brought to the visual tokens that its patches became.

A tower is read where its last used layer attends, while it runs; the projector's output rows carry what their patches
got; and the language model's visual tokens are recognised among those rows when it begins. ``generate()`` encodes
pictures before the model's own forward, and some families encode them one by one or twice: whatever was encoded since
the last prompt is kept, per thread, until the next one takes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import SparseSightError, UnsupportedModelError
from ..methods.stage import Vision
from .additions import Additions
from .families import Anatomy
from .masks import mask_of_rows
from .matching import find_rows, merged_rows, row_hashes, signature
from .probe import Probe
from .towers import INSTEAD, Tower, find_sight

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_LOGITS = 1 << 22  # attention logits that are held at once where there is no class token


@dataclass(frozen=True)
class Carried:
    """Rows, and what they got of their tower: of patches, then of the tokens made of them."""

    number: Int[Tensor, " n"]  # the rows' bits, see `row_hashes`
    attention: Float[Tensor, " n"]  # -inf: a class token, which is no patch
    key: Float[Tensor, "n d"]
    known: Bool[Tensor, " n"]  # False: it is not known of which patches this row is made

    @staticmethod
    def joined(parts: list[Carried], device: torch.device | None = None) -> Carried:
        """All rows one after the other, on one device."""
        columns = zip(*((x.number, x.attention, x.key, x.known) for x in parts), strict=True)
        return Carried(*(torch.cat([x.to(device or x.device) for x in column]) for column in columns))


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
        self.patches: list[Carried] = []
        self.projected = False  # whether these patches have been made into tokens
        self.tokens: list[Carried] = []


class VisionReader:
    """Reads the vision towers of a model.

    Args:
        parts: of the model.
        method: name of the method that needs it, for what is refused.

    Raises:
        UnsupportedModelError: if there is no tower that can be read, or nothing between it and the language model
            that makes tokens of patches.
    """

    def __init__(self, parts: Anatomy, method: str) -> None:
        self.method, self.model = method, type(parts.given).__name__
        self.sight = find_sight(parts, method)
        self.dtype: torch.dtype = parts.decoder.get_input_embeddings().weight.dtype  # type: ignore[operator]
        self.local = _Local()
        self.groups: dict[Any, Tensor | None] = {}  # of the projector, see `_groups`
        self.probes: list[Probe] = []

    def install(self, added: Additions) -> None:
        """Put hooks and probes on towers and projector; they are ``added``, and go with it."""
        for number, tower in enumerate(self.sight.towers):
            added.hook(tower.module, "forward_pre", self._enter(tower))
            added.hook(tower.layer, "forward", self._leave_layer)
            added.hook(tower.module, "forward", self._leave, always_call=True)
            self.probes.append(Probe(tower.attention, number, self._observe, added))
        added.hook(self.sight.projector, "forward", self._project, with_kwargs=True)

    def forget(self) -> None:
        """Drop what this thread has encoded."""
        self.local.clear()

    def take(self, embeddings: Float[Tensor, "b n c"], visual: Bool[Tensor, "b n"]) -> Vision:
        """What was read of the visual tokens among a prompt's rows, as they enter the decoder; 0 for other rows.

        Waits for the device once, to see that every one of them was found.

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
        seen = Carried.joined(local.tokens or local.patches, embeddings.device)
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
        return Vision(attention, seen.key[place].masked_fill(empty[..., None], 0))

    # -- in the order of an encoding --------------------------------------------------------------------------

    def _enter(self, tower: Tower) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            local = self.local
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
            self._note(output[0] if isinstance(output, tuple) else output, attention, key)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Also after an exception. A tower's own output is what its last layer gave, normalised."""
        local = self.local
        tower, local.running, local.read = local.running, None, []
        rows = getattr(output, "last_hidden_state", None)
        if tower is not None and tower.last and local.patches and isinstance(rows, Tensor):
            self._note(rows, local.patches[-1].attention, local.patches[-1].key)

    def _note(self, rows: Tensor, attention: Tensor, key: Tensor) -> None:
        """Keep the tower's rows in mind by their bits."""
        rows = rows.reshape(-1, rows.shape[-1])
        if len(rows) == len(attention):
            self.local.width = rows.shape[1]
            self.local.patches.append(
                Carried(row_hashes(rows), attention, key, torch.ones_like(attention).bool())
            )

    def _project(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Give the projector's output rows what their patches got."""
        local = self.local
        x = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        rows = output[0] if isinstance(output, tuple) else output
        if not local.patches or x is None or not isinstance(rows, Tensor):
            return
        local.projected = True
        flat = rows.detach().reshape(-1, rows.shape[-1])
        number = row_hashes(flat.to(self.dtype) if self.dtype.is_floating_point else flat)
        with torch.no_grad():
            local.tokens.append(self._tokens(number, x, rows, args, kwargs))

    def _tokens(
        self, number: Tensor, x: Tensor, rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Carried:
        """The projector's output rows with the mean of what their patches got."""
        seen = Carried.joined(self.local.patches, x.device)
        groups = None if x.shape[-1] % self.local.width else self._groups(x, rows, args, kwargs)
        if groups is None:
            nothing = seen.attention.new_zeros(len(number))
            return Carried(
                number, nothing, seen.key.new_zeros(len(number), seen.key.shape[1]), nothing.bool()
            )
        # Several patches, or several layers, may lie side by side in one row of its input.
        place = find_rows(seen.number, row_hashes(x.detach().reshape(-1, self.local.width)))
        place = place.view(-1, x.shape[-1] // self.local.width)[groups].flatten(1)
        there = place >= 0
        count = there.sum(1).clamp(min=1)
        attention = torch.where(there, seen.attention[place], 0).sum(1) / count
        key = torch.where(there[..., None], seen.key[place], 0).sum(1) / count[:, None]
        return Carried(number, attention, key, there.any(1) if self.sight.several else there.all(1))

    def _groups(
        self, x: Tensor, rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Int[Tensor, "out k"] | None:
        """Which rows of the projector's input each row of its output is made of; asked once for each size."""
        more = [v for v in (*args, *kwargs.values()) if v is not x and v is not None]
        if any(isinstance(v, Tensor) and v.is_floating_point() for v in more):
            return None  # it puts together the features of two towers
        each = not more and x.ndim > 2 and rows.ndim > 2 and x.shape[0] == rows.shape[0]  # picture by picture
        pictures = x.shape[0] if each else 1
        asked = x[:1] if each else x
        n, m = asked[..., 0].numel(), rows[..., 0].numel() // pictures
        ratio = not more and x.ndim == 2 and n % m == 0
        # A module that is told nothing but rows cannot know a grid: neighbours, if it is neighbours once.
        sizes = (*asked.shape, m, *(signature(v) for v in more))
        key = ("neighbours", n // m) if ratio and ("neighbours", n // m) in self.groups else sizes
        if key not in self.groups:

            def run(given: Tensor) -> Tensor:
                # Its forward, past hooks: nobody is to take this for a call.
                out = self.sight.projector.forward(
                    *(given if v is x else v for v in args),
                    **{k: given if v is x else v for k, v in kwargs.items()},
                )
                return out[0] if isinstance(out, tuple) else out

            found = merged_rows(run, asked)
            if found is not None and len(found) != m:
                found = None
            neighbours = [list(range(i, i + n // m)) for i in range(0, n, n // m)] if ratio else None
            if found is not None and found == neighbours and m > 1:
                key = ("neighbours", n // m)
                self.groups[key] = torch.arange(n // m)
            else:
                self.groups[sizes] = None if found is None else torch.tensor(found)
        group = self.groups[key]
        if group is None:
            return None
        group = group.to(x.device)
        if key[0] == "neighbours":
            return torch.arange(m, device=x.device)[:, None] * (n // m) + group
        return (torch.arange(pictures, device=x.device)[:, None, None] * n + group).flatten(0, 1)


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
