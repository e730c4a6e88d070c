"""The model families that the plugin serves: which of vLLM's classes each architecture is. A new one is a row here.

A family fits if its decoder is ``language_model.model`` with ``layers`` and ``norm``, and its visual rows come through
``embed_input_ids(..., is_multimodal=mask)``, as all of vLLM's do; :func:`.pruner.check_layer` refuses decoders that the
hooks do not fit.
"""

from __future__ import annotations

# architecture of the checkpoint -> module and class in vllm.model_executor.models
MODELS: dict[str, tuple[str, str]] = {
    "LlavaForConditionalGeneration": ("llava", "LlavaForConditionalGeneration"),
    "LlavaNextForConditionalGeneration": ("llava_next", "LlavaNextForConditionalGeneration"),
    "LlavaOnevisionForConditionalGeneration": ("llava_onevision", "LlavaOnevisionForConditionalGeneration"),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    "Qwen2_5_VLForConditionalGeneration": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    "InternVLForConditionalGeneration": ("interns1", "InternS1ForConditionalGeneration"),
}
