"""LoRA adapters beside pruning: rows that are dropped leave vLLM's map of rows to adapters as well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass
class Adapters:
    """The maps of a decoder, shortened while a step prunes.

    vLLM writes a map only when it differs from the step before, so that it is restored after each step.
    """

    decoder: nn.Module
    whole: dict[int, tuple[Any, Tensor]] = field(default_factory=dict)  # what each map was, by its id
    maps: list[Any] | None = None  # of the layers, once looked for

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Keep these rows of the maps, in this order. Without LoRA there are none.

        Adapters are put on a model before its first step, so that the layers are gone through once.
        """
        if self.maps is None:
            self.maps = self._maps()
        for mapping in self.maps:
            own = mapping.token_lora_indices
            self.whole.setdefault(id(mapping), (mapping, own.clone()))
            _write(mapping, own[rows])

    def restore(self) -> None:
        """Every map as it was before the step."""
        for mapping, own in self.whole.values():
            _write(mapping, own)
        self.whole = {}

    def _maps(self) -> list[Any]:
        """vLLM's ``PunicaWrapper`` of the decoder's layers; they share it, and get it when the model is loaded."""
        found = (getattr(module, "punica_wrapper", None) for module in self.decoder.modules())
        return list({id(x): x for x in found if x is not None}.values())


def _write(mapping: Any, indices: Int[Tensor, " n"]) -> None:
    mapping._token_lora_indices[: len(indices)].copy_(indices)
    mapping.indices_len[0] = len(indices)
    if hasattr(mapping, "token_mapping_meta"):  # of GPUs
        mapping.token_mapping_meta.prepare_tensors(mapping.token_lora_indices)
    elif mapping.is_prefill:
        mapping._update_prefill_metadata(mapping.token_lora_indices)
