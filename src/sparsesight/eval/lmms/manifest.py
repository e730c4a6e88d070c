"""The entry point (group ``lmms_eval.models``) through which lmms-eval finds the model ``sparsesight``."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The ``ModelManifest``. A function, because lmms-eval's registry may ask for it while it is being imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="sparsesight", chat_class_path="sparsesight.eval.lmms.model.SparseSightModel"
    )
