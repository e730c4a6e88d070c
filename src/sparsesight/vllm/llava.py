"""LLaVA-1.5 in vLLM: vLLM's own model, with pruning where the server asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import LlavaForConditionalGeneration

from .config import kv_groups_of, method_of
from .frontend import check


class SparseLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """vLLM's LLaVA; without ``sparsesight`` in ``additional_config`` nothing about it differs."""

    pruner: Any = None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        method = method_of(vllm_config.additional_config)
        stages: tuple[int, ...] = ()
        if method is not None:  # checked here as well: engines can be made without a front end
            stages = check(vllm_config, method)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if method is not None:
            from . import runner
            from .pruner import Pruner

            self.pruner = Pruner(method, stages, self.language_model.model)
            self.pruner.install(runner.Backends(kv_groups_of(vllm_config.additional_config)).give)
            runner.install(self, vllm_config)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """As vLLM's; notes which rows of the coming step are visual tokens."""
        if self.pruner is not None:
            self.pruner.note(is_multimodal)
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """As vLLM's, which does not know how newer versions of transformers name the weights of a CLIP tower."""
        nested = hasattr(self.vision_tower, "vision_model")
        return super().load_weights((_tower_name(name) if nested else name, x) for name, x in weights)


def _tower_name(name: str) -> str:
    """``vision_tower.encoder...`` as it was named before: ``vision_tower.vision_model.encoder...``."""
    head, tower, rest = name.partition("vision_tower.")
    if tower and head in ("", "model.") and not rest.startswith("vision_model."):
        return f"{head}{tower}vision_model.{rest}"
    return name
