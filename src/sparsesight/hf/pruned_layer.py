"""Cache layers that hold fewer tokens than their logical length.

transformers sizes masks and positions from cache lengths, so a layer that dropped tokens must still report its unpruned
length. What a pruned layer knows about its keys is stored in the layer, and dies with the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..errors import UnsupportedModelError
from ..ops import compact
from .filled_by import FilledBy


class PrunedLayer(DynamicLayer):
    """A cache layer whose first ``held`` keys stand for ``logical`` tokens.

    ``slots`` [b, held] is the logical index of each of those keys, ``valid`` [b, held] tells filler, and
    ``multiplicity`` (float32 [b, held]) how many tokens each stands for; keys appended later are ordinary tokens and
    follow the logical length one by one.
    """

    slots: Tensor
    valid: Tensor
    multiplicity: Tensor | None = None  # None: each key stands for one token
    held: int
    logical: int
    ragged: bool  # whether there is filler among the held keys (known without asking the device)
    filled_by: FilledBy | None = None  # set once a forward has pruned, on all layers of its cache
    locked: bool = False  # whether no forward that knows what the layers hold is in flight

    @staticmethod
    def of(layer: DynamicLayer) -> PrunedLayer:
        """Turn a cache layer into a pruned one of its kind; one that already is stays itself."""
        if isinstance(layer, PrunedLayer):
            return layer
        kind = PRUNED_KINDS[type(layer)]
        pruned = kind.__new__(kind)
        pruned.__dict__.update(layer.__dict__)
        pruned.held = pruned.logical = 0
        pruned.ragged = False
        return pruned

    def physical_length(self) -> int:
        """Keys actually stored."""
        return DynamicLayer.get_seq_length(self)

    def get_seq_length(self) -> int:
        return self.logical + self.physical_length() - self.held

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        self._refuse_strangers()
        return super().get_mask_sizes(query_length)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self._refuse_strangers()
        return super().update(key_states, value_states, *args, **kwargs)

    def _refuse_strangers(self) -> None:
        """A forward without our hooks would take the keys for all of the prompt's."""
        if self.locked and self.filled_by is not None:
            raise self.filled_by.refusal()

    def key_slots(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Logical index and validity [rows, stored] of the keys stored now."""
        length, tail = self.get_seq_length(), self.physical_length() - self.held
        after = torch.arange(length - tail, length, device=device).expand(rows, tail)
        fine = torch.ones_like(after, dtype=torch.bool)
        if not self.held:
            return after, fine
        return torch.cat((self.slots, after), 1), torch.cat((self.valid, fine), 1)

    def key_multiplicity(self) -> Tensor | None:
        """How many tokens the keys stored now stand for, float32 [rows, stored]; None: one each."""
        if self.multiplicity is None:
            return None
        return pad(self.multiplicity, (0, self.physical_length() - self.held), value=1)

    def note(
        self, slots: Tensor, valid: Tensor, logical: int, ragged: bool, multiplicity: Tensor | None = None
    ) -> None:
        """Record what the layer holds once the coming ``update`` is done; ``slots`` covers all its keys then."""
        self.slots, self.valid, self.multiplicity = slots, valid, multiplicity
        self.held, self.logical = slots.shape[1], logical
        self.ragged = ragged

    def drop(
        self, past: int, stays: Tensor, count: int, ragged: bool, multiplicity: Tensor | None = None
    ) -> None:
        """Forget keys of the last forward, whose first token has the logical index ``past``.

        Args:
            past: logical length before it.
            stays: boolean [b, n], which of its tokens keep their keys.
            count: most of them that stay in any sample, known to the host.
            ragged: whether samples keep different numbers of them.
            multiplicity: float32 [b, n], how many tokens each of them stands for from now on; None: nothing changes.
        """
        stored, length, rows = self.physical_length(), self.get_seq_length(), stays.shape[1]
        if not stored or self.keys is None or self.values is None:
            return
        slots, valid = self.key_slots(stays.shape[0], stays.device)
        known, place = self.key_multiplicity(), slots - past
        valid = valid & ((place < 0) | stays.gather(1, place.clamp(0, rows - 1)))
        index, valid = compact(valid, max(stored - rows, 0) + min(stored, count))
        at = index[:, None, :, None]
        self.keys, self.values = (
            x.gather(2, at.expand(-1, x.shape[1], -1, x.shape[3])) for x in (self.keys, self.values)
        )
        if multiplicity is not None:
            own = multiplicity.gather(1, place.clamp(0, rows - 1))
            known = torch.where(place < 0, 1.0 if known is None else known, own)
        self.multiplicity = None if known is None else known.gather(1, index)
        # A window that has passed tokens of this forward holds numbers of them that only the device knows.
        self.ragged = self.ragged or ragged or stored < rows
        self.slots, self.valid = slots.gather(1, index), valid
        self.held, self.logical = index.shape[1], length

    def reset(self) -> None:
        # Dropped, not zeroed as older transformers do: zeros would count as tokens.
        self.keys = self.values = None
        self.is_initialized = False
        super().reset()
        self.held = self.logical = 0
        self.ragged, self.multiplicity = False, None
        self.filled_by, self.locked = None, False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, counted logically (a positive value is the legacy length to keep).

        Raises:
            UnsupportedModelError: if the samples held different numbers of the tokens to remove.
        """
        length = self.get_seq_length()
        tokens_to_remove = int(tokens_to_remove)  # older generate() hands a tensor
        if tokens_to_remove > 0:
            tokens_to_remove = min(tokens_to_remove - length, 0)
        keep = max(length + tokens_to_remove, 0)
        if tokens_to_remove == 0:
            return
        if keep < self.logical:
            stay = (self.slots < keep).sum(1)
            left = int(stay.max())
            if int(stay.min()) != left or not bool(self.valid.all()):
                raise UnsupportedModelError(
                    "crop: the samples of this batch hold different tokens in that range"
                )
            remove = self.physical_length() - left
            self._map_held(lambda x: x[:, :left])
            self.held, self.logical = left, keep
        else:
            remove = -tokens_to_remove
        if remove:
            DynamicLayer.crop(self, -remove)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._map_held(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map_held(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._map_held(lambda x: x[indices])

    def _map_held(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change what is known of the held keys."""
        if self.held:
            self.slots, self.valid = change(self.slots), change(self.valid)
            self.multiplicity = None if self.multiplicity is None else change(self.multiplicity)


class PrunedDynamicLayer(PrunedLayer):
    """In the place of a :class:`DynamicLayer`."""


class PrunedSlidingLayer(PrunedLayer, DynamicSlidingWindowLayer):
    """In the place of a :class:`DynamicSlidingWindowLayer`.

    It stores the last ``window - 1`` of its keys. No more than those can lie in the window, which is counted in
    logical tokens; the masks hide those of them that lie before it.
    """

    noted: bool = False  # the coming update ends at the logical length that was noted

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def note(
        self, slots: Tensor, valid: Tensor, logical: int, ragged: bool, multiplicity: Tensor | None = None
    ) -> None:
        super().note(slots, valid, logical, ragged, multiplicity)
        self.noted = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        stored = self.physical_length() + key_states.shape[-2]
        result: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
        if self.noted:
            self.cumulative_length = self.logical
            self.noted = False
        self._forget(stored)
        return result

    def crop(self, tokens_to_remove: int) -> None:
        """As of any pruned layer, then cut to the window; past it only after ``activate_past_recording``."""
        length, tokens_to_remove = self.get_seq_length(), int(tokens_to_remove)
        if length >= self.sliding_window and not getattr(self, "record_past", False):
            raise RuntimeError(
                "crop: the sliding window has passed tokens; call activate_past_recording() first"
            )
        super().crop(tokens_to_remove)
        if tokens_to_remove:
            self.cumulative_length = length + min(
                tokens_to_remove if tokens_to_remove < 0 else tokens_to_remove - length, 0
            )
        stored = self.physical_length()
        if self.keys is not None and self.values is not None and stored >= self.sliding_window:
            self.keys = self.keys[:, :, 1 - self.sliding_window :]
            self.values = self.values[:, :, 1 - self.sliding_window :]
        self._forget(stored)

    def _forget(self, stored: int) -> None:
        """Follow the cut from ``stored`` keys to those that are left."""
        gone = min(stored - self.physical_length(), self.held)
        if gone:
            self._map_held(lambda x: x[:, gone:])
            self.held -= gone


PRUNED_KINDS: dict[type, type[PrunedLayer]] = {
    DynamicLayer: PrunedDynamicLayer,
    DynamicSlidingWindowLayer: PrunedSlidingLayer,
}
