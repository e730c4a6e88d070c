"""Inputs of batches, made once for all methods: pictures are read, scaled and, if possible, encoded a single time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..records import Item

MAX_BYTES = 1 << 30  # of inputs that are held; the others are made again
PIXELS = "pixel_values"


class Batches:
    """Inputs by the items of a batch.

    Args:
        model: that gets them.
        make: inputs of a batch on the CPU, pictures as pixels.
    """

    def __init__(self, model: Any, make: Callable[[Sequence[Item]], Any]) -> None:
        self._model, self._make = model, make
        self._held: dict[tuple[Any, ...], Any] = {}
        self._room = MAX_BYTES

    def inputs(self, items: Sequence[Item], whole: bool = False) -> dict[str, Any]:
        """On the model's device, left-padded.

        Args:
            items: the batch.
            whole: with pixels, for a method that looks at the vision tower; else encoded pictures where the model takes
                them.
        """
        key = (whole, *(item.id for item in items))
        if key not in self._held:
            made = self.fresh(items, whole)
            size = _bytes(made)
            if size > self._room:
                return made
            self._room -= size
            self._held[key] = made
        return _copied(self._held[key])

    def fresh(self, items: Sequence[Item], whole: bool = False) -> dict[str, Any]:
        """The same, held by nobody."""
        made = dict(self._make(items).to(self._model.device, self._model.dtype))
        if "attention_mask" not in made:
            made["attention_mask"] = torch.ones_like(made["input_ids"])
        if not whole and self._encodes(made):
            with torch.inference_mode():
                image = self._model.get_image_features(pixel_values=made.pop(PIXELS), return_dict=True)
            made["mm_encoder_outputs"] = {"image": image}
        return made

    def _encodes(self, inputs: dict[str, Any]) -> bool:
        """Whether pixels are all that the model's vision tower is given, and their code can be given instead."""
        encode = getattr(self._model, "get_image_features", None)
        if encode is None or PIXELS not in inputs:
            return False
        if "mm_encoder_outputs" not in inspect.signature(self._model.forward).parameters:
            return False
        return set(inspect.signature(encode).parameters) & set(inputs) == {PIXELS}


def _copied(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same tensors in containers of their own, as ``generate()`` adds to those that it gets."""
    return {k: dict(v) if isinstance(v, dict) else v for k, v in inputs.items()}


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
