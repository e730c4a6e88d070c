"""How long a step must be so that a picture and the text that judges it come at once."""

from __future__ import annotations

from typing import Any

TEXT = 512  # tokens beside a picture: its question, and the decoding requests of the step


def longest_region(config: Any) -> int:
    """Tokens of the largest pictures that a ``VllmConfig`` allows in a turn, with a question.

    Where the user has set no limit of pictures it is one. Clips do not count: in some models they fill whatever length
    there is; one that is longer than a step is kept whole.
    """
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.encoder_budget import get_mm_max_toks_per_item

    model = config.model_config
    limit = getattr(model.multimodal_config.limit_per_prompt.get("image"), "count", 1)
    if not limit:
        return 0
    processor = MULTIMODAL_REGISTRY.create_processor(model)
    tokens = get_mm_max_toks_per_item(processor, {"image": 1}, None).get("image", 0)
    return int(min(limit * tokens + TEXT, model.max_model_len))
