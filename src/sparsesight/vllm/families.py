"""The model families that the plugin serves, from their rows in :mod:`sparsesight.families`.

A family fits if its decoder is ``language_model.model`` with ``layers`` and ``norm``, and its visual rows come through
``embed_input_ids(..., is_multimodal=mask)``, as all of vLLM's do;
:func:`.layer_attention.check_layer` refuses decoders that the hooks do not fit.
"""

from __future__ import annotations

from ..families import FAMILIES

# architecture of the checkpoint -> module and class in vllm.model_executor.models
MODELS: dict[str, tuple[str, str]] = {
    architecture: place for family in FAMILIES.values() for architecture, place in family.vllm.items()
}
