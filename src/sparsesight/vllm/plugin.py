"""The entry point of the group ``vllm.general_plugins``; vLLM calls it in every process."""

from __future__ import annotations

MODELS = {
    "LlavaForConditionalGeneration": "sparsesight.vllm.llava:SparseLlavaForConditionalGeneration",
}


def register() -> None:
    """Put our models in the place of vLLM's; they are imported only when such a model is loaded."""
    from vllm import ModelRegistry

    from .frontend import install

    install()

    for architecture, model in MODELS.items():
        ModelRegistry.register_model(architecture, model)
