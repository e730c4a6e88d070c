"""vLLM's own models, with pruning where the server asks for it: one class for all families."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from types import new_class
from typing import Any

from torch import Tensor

from ..core.budget import BEFORE
from .config import compare_ranks_of, kv_groups_of, logger, method_of
from .families import MODELS
from .frontend import check
from .requests import planner_of


class Sparse:
    """Stands before a vLLM model among the bases of a class.

    Without ``sparsesight`` in ``additional_config`` that model answers as it does, and also loads checkpoints of a
    CLIP-like tower whose weights are named as by newer versions of transformers, on which vLLM 0.32 alone fails.
    """

    pruner: Any = None
    tower: Any = None  # what reads the vision tower, if the method asks for it

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        method = method_of(vllm_config.additional_config)
        if method is not None:  # checked here as well: engines can be made without a front end
            check(vllm_config, method)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        if method is not None:
            from . import rehearsal, runner
            from .pruner import Pruner

            decoder = self.language_model.model  # type: ignore[attr-defined]
            planner = planner_of(vllm_config, method)
            self.pruner = Pruner(planner, decoder)
            self.pruner.compare_ranks = compare_ranks_of(vllm_config.additional_config)
            backends = runner.Backends(
                len(planner.stages),
                vllm_config.scheduler_config.max_num_seqs,
                kv_groups_of(vllm_config.additional_config),
                planner.stages[0] == BEFORE,
            )
            self.pruner.install(backends.give)
            runner.install(self, vllm_config)
            if method.requires_vision:
                from .tower import TowerReader

                self.tower = TowerReader(self, str(method))
                self.pruner.read_width = self.tower.width
            rehearsal.install(self, self.pruner)  # type: ignore[arg-type]  # a module by its other base
            logger.info(
                "sparsesight prunes visual tokens by %s: retain=%r after layers %s of %d",
                method.name,
                method.retain,
                planner.stages,
                self.pruner.num_layers,
            )

    def embed_multimodal(self, **kwargs: object) -> Any:
        """As vLLM's; what is read of the vision tower stands in further columns, which nobody but us sees."""
        if self.tower is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        return self.tower.read(lambda: super(Sparse, self).embed_multimodal(**kwargs))  # type: ignore[misc]

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """As vLLM's; notes that a step comes."""
        if self.pruner is not None:
            self.pruner.note()
        if self.tower is not None:
            self.pruner.read = None
            if multimodal_embeddings is not None and len(multimodal_embeddings):
                multimodal_embeddings, self.pruner.read = self.tower.split(
                    multimodal_embeddings, is_multimodal
                )
        embedded: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embedded

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """As vLLM's, which does not know how newer versions of transformers name the weights of a CLIP-like tower."""
        if hasattr(getattr(self, "vision_tower", None), "vision_model"):
            weights = ((_tower_name(name), x) for name, x in weights)
        loaded: set[str] = super().load_weights(weights)  # type: ignore[misc]
        return loaded


def __getattr__(name: str) -> type:
    """The class of an architecture; vLLM asks for it by that name, so that no family is imported but the one in use."""
    if name not in MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _made(name)


@cache
def _made(architecture: str) -> type:
    module, name = MODELS[architecture]
    inner = getattr(import_module(f"vllm.model_executor.models.{module}"), name)

    def body(namespace: dict[str, Any]) -> None:
        namespace |= {
            "__module__": __name__,
            "__doc__": f"vLLM's {name}, with pruning where it is asked for.",
        }

    return new_class(architecture, (Sparse, inner), exec_body=body)


def _tower_name(name: str) -> str:
    """``vision_tower.encoder...`` as it was named before: ``vision_tower.vision_model.encoder...``."""
    head, tower, rest = name.partition("vision_tower.")
    if tower and head in ("", "model.") and not rest.startswith("vision_model."):
        return f"{head}{tower}vision_model.{rest}"
    return name
