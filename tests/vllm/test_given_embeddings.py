"""Embeddings of pictures that this engine has not made: those of another one, and those that a request gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import SparseVLMPlus

from .engines import answers, by_transformers, loaded, prompt, pruner, questions, same, sampling

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_pictures_that_are_encoded_elsewhere(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = {
        "ec_connector": "ECExampleConnector",
        "ec_role": "ec_both",
        "ec_connector_extra_config": {"shared_storage_path": str(tmp_path)},
    }
    method, asked = SparseVLMPlus(64), questions()[:3]
    prompts, right = [prompt(*one) for one in asked], by_transformers(method, asked)
    llm = opened(method, ec_transfer_config=transfer, skip_mm_profiling=True, enable_mm_embeds=True)
    same(answers(llm, prompts, sampling()), right, 1e-3)
    assert len(list(tmp_path.iterdir())) == len({picture.tobytes() for picture, _ in asked})
    # From now on pictures come from the folder, as those that a server for encoding has left there.
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    runner.encoder_cache.clear()
    llm.llm_engine.engine_core.engine_core.scheduler.encoder_cache_manager.reset()
    with monkeypatch.context() as patch:
        patch.setattr(runner.get_model(), "embed_multimodal", None)
        same(answers(llm, prompts, sampling()), right, 1e-3)
    given = []
    for picture, question in asked:
        inputs = loaded()[1](text=prompt(picture, question)["prompt"], images=picture, return_tensors="pt")
        with torch.no_grad():
            rows = loaded()[0].get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        given.append(prompt(rows[None], question))
    same(answers(llm, given, sampling()), right, 1e-3)
    assert pruner(llm).tally.pruned == 3 * len(asked)
