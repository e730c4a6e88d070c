"""What is tried with the vision tower of every family: equal pictures, tiles and frames are encoded once."""

from __future__ import annotations

from typing import Any

import torch

from sparsesight import sparsify

from .case import Case

# Their towers' rows are not assigned to pictures: pictures of several sizes in one sequence or padded, or no tower.
NOT_ALONE = {
    "apertus1p5",
    "chameleon",
    "emu3",
    "fuyu",
    "gemma4",
    "gemma4-moe",
    "gemma4_unified",
    "hunyuan_vl",
    "lfm2_vl",
    "lighton_ocr",
    "llava-pixtral",
    "minicpm_ocr",
    "minicpmv4_6",
    "minicpmv4_7",
    "minimax_m3_vl",
    "mistral3",
    "mistral3-ministral3",
    "mistral3-mistral4",
    "molmo2",
    "nemotron_h_omni",
}


def encoded_once(case: Case, attention: str) -> None:
    """Samples that repeat others get what they get without it, and the tower encodes half as much."""
    model: Any = case.models[attention]
    clips = (5, 5) if "video" in case.family.visual else ()
    prompt = case.prompt(1, 1, *clips)
    with torch.no_grad():
        dense = model(**prompt).logits
        with sparsify(model, retain=1.0, encode_once=True) as run:
            once = model(**prompt).logits
        with sparsify(model, retain=1.0, encode_once=True) as lone:
            model(**case.prompt(0))
    case.close(once, dense, "encoded once")
    assert run.encoded is not None and lone.encoded is not None
    assert lone.encoded.given >= lone.encoded.encoded
    if case.family.name in NOT_ALONE:
        assert run.encoded.given == 0
    else:
        assert 0 < run.encoded.encoded * 2 <= run.encoded.given
