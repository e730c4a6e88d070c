"""Nemotron with Mamba layers; MiniMax and dots, whose attention goes to the keys that an indexer picks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import base
from .base import Family, Sample
from .rest import BEGIN, END, expanded, pictures, pixels, silent
from .rest_moe import HIDDEN, VISION, cells, experts


def patches(frames: Sequence[Image.Image], rows: int, columns: int, temporal: int = 1) -> Tensor:
    """Frames as flat patches of 4 pixels, two by two of them a token [patches, numbers]."""
    x = torch.stack([pixels(frame, columns * 8, rows * 8) for frame in frames])
    x = x.reshape(-1, temporal, 3, rows, 2, 4, columns, 2, 4).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.flatten(0, 4).flatten(1)


def span(count: int, token: str = "<image>") -> str:
    return BEGIN + token * count + END


# -- Nemotron: Mamba, attention, experts, one of them a layer -------------------------------------------------


def _nemotron(attention: str) -> Any:
    from transformers import NemotronH_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3_Config, NemotronHConfig

    base.seed()
    image, *around = silent()
    text = {key: value for key, value in base.TEXT.items() if key != "num_hidden_layers"}
    config = NemotronH_Omni_Reasoning_V3_Config(
        text_config=NemotronHConfig(
            **text,
            layers_block_type=[
                *("linear_attention", "full_attention", "moe"),
                *("linear_attention", "full_attention", "mlp"),
                *("linear_attention", "full_attention", "moe"),
            ],
            ssm_state_size=8,
            mamba_num_heads=4,
            mamba_head_dim=16,
            n_groups=2,
            chunk_size=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            moe_shared_expert_intermediate_size=24,
        ),
        vision_config={
            **VISION,
            "model_type": "radio",
            "patch_size": 4,
            "image_size": 64,
            "max_img_size": 128,
            "video_temporal_patch_size": 2,
            "initializer_range": 0.3,
        },
        vision_hidden_size=16,
        projector_hidden_size=24,
        image_token_id=image,
        attn_implementation=attention,
    )
    return base.finish(NemotronH_Omni_Reasoning_V3(config), image, *around)


def _nemotron_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    images, values = pictures(samples), []
    grids = [cells(image) for image in images]
    for image, (rows, columns) in zip(images, grids, strict=True):
        x = pixels(image, columns * 8, rows * 8).reshape(3, rows * 2, 4, columns * 2, 4)
        values.append(x.permute(1, 3, 0, 2, 4).flatten(0, 1).flatten(1))
    prompt = expanded(samples, [span(rows * columns) for rows, columns in grids])
    if images:
        prompt["pixel_values"] = torch.cat(values)
        prompt["image_grid_hw"] = torch.tensor([[2 * rows, 2 * columns] for rows, columns in grids])
    return prompt


# -- MiniMax and dots: attention to the keys that an indexer picks --------------------------------------------


def _minimax(attention: str, *kinds: str) -> Any:
    from transformers import MiniMaxM3SparseForConditionalGeneration, MiniMaxM3VLConfig

    base.seed()
    image, *around = silent()
    config = MiniMaxM3VLConfig(
        text_config={
            **base.TEXT,
            "dense_intermediate_size": 48,
            "shared_intermediate_size": 24,
            "intermediate_size": 24,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rotary_dim": 8,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "layer_types": list(kinds),
            "mlp_layer_types": ["dense"] + ["sparse"] * (base.LAYERS - 1),
        },
        vision_config={**VISION, "intermediate_size": 24, "patch_size": 4, "initializer_range": 0.3},
        projector_hidden_size=24,
        image_token_index=image,
        video_token_index=around[-1],
        attn_implementation=attention,
    )
    return base.finish(MiniMaxM3SparseForConditionalGeneration(config), image, *around)


def _minimax_full(attention: str) -> Any:
    return _minimax(attention, *["full_attention"] * base.LAYERS)


def minimax_sparse(attention: str) -> Any:
    return _minimax(attention, *["full_attention"] * 2, *["minimax_m3_sparse"] * (base.LAYERS - 2))


def _minimax_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    return _grids(samples, 2)


def dots3_note(attention: str) -> Any:
    from transformers import Dots3NoteConfig, Dots3NoteForConditionalGeneration

    base.seed()
    image, *around = silent()
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16}
    sizes = {"head_dim": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    config = Dots3NoteConfig(
        text_config={
            **experts(),
            "num_hidden_layers": 7,  # of which 0, 1 and 5 have the indexer
            "mlp_layer_types": ["dense"] + ["sparse"] * 6,
            **heads,
            **sizes,
            **{f"swa_{key}": value for key, value in (heads | sizes).items()},
            "shared_experts_intermediate_size": 24,
            "sliding_window": 16,
            "index_topk": 16,
            "index_head_dim": 8,
            "index_n_heads": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            **VISION,
            "intermediate_size": 24,
            "patch_size": 4,
            "mlp_layer_types": ["dense", "dense"],
            "adapter_in_dim": 16,
            "adapter_out_dim": HIDDEN,
            "initializer_range": 0.3,
        },
        audio_config={
            **VISION,
            "intermediate_size": 16,
            "feature_size": 8,
            "downsample_hidden_size": 8,
            "adapter_input_size": 16,
            "adapter_out_dim": HIDDEN,
        },
        image_token_id=image,
        video_token_id=around[-1],
        audio_token_id=63,
        attn_implementation=attention,
    )
    return base.finish(Dots3NoteForConditionalGeneration(config), image, *around)


def _grids(samples: Sequence[Sample], temporal: int) -> dict[str, Any]:
    """Pictures and clips as patches with their grids; `temporal` frames make one."""
    images, clips = pictures(samples), [clip for sample in samples for clip in sample.videos]
    grids = [cells(image) for image in images]
    times = [len(clip) // temporal for clip in clips]
    rows = columns = 3  # of a frame
    prompt = expanded(
        samples,
        [span(height * width) for height, width in grids],
        [span(rows * columns, "<video>") * time for time in times],
    )
    if images:
        values = [
            patches([image] * temporal, *grid, temporal) for image, grid in zip(images, grids, strict=True)
        ]
        prompt["pixel_values"] = torch.cat(values)
        prompt["image_grid_thw"] = torch.tensor([[1, 2 * height, 2 * width] for height, width in grids])
    if clips:
        values = [patches(_frames(clip), rows, columns, temporal) for clip in clips]
        prompt["pixel_values_videos"] = torch.cat(values)
        prompt["video_grid_thw"] = torch.tensor([[time, 2 * rows, 2 * columns] for time in times])
    return prompt


def _frames(clip: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in clip]


# -- Hunyuan 4: DeepSeek's decoder with four hidden streams, whose indexer picks keys --------------------------


def hunyuan4(attention: str) -> Any:
    from transformers import HYV4VLConfig, HYV4VLForConditionalGeneration

    base.seed()
    image, *around, video = silent()
    text = {key: value for key, value in base.TEXT.items() if key not in ("head_dim", "num_key_value_heads")}
    config = HYV4VLConfig(
        text_config={
            **text,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "index_topk": 8,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={**VISION, "patch_size": 4, "max_image_size": 64, "out_hidden_size": HIDDEN},
        image_token_id=image,
        video_token_id=video,
        attn_implementation=attention,
    )
    return base.finish(HYV4VLForConditionalGeneration(config), image, video, *around)


# Their image or video processors need torchvision.
FAMILIES = (
    Family(
        "nemotron_h_omni",
        _nemotron,
        _nemotron_prompts,
        inputs="tensors",
        decoder="layers of Mamba, of attention, of experts",
        layers="language_model.model.layers",
        kinds="rftrftrft",
    ),
    Family(
        "minimax_m3_vl",
        _minimax_full,
        _minimax_prompts,
        visual="image, video",
        inputs="tensors",
        decoder="mixture of experts",
        visual_ids=(4, 7),
    ),
)
