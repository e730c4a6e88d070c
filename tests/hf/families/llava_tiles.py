"""Kin of LLaVA that cut pictures into tiles: InternVL, Aya, Command, GOT-OCR, Qianfan-OCR, Ovis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from PIL import Image

from . import base
from .base import Family, Sample
from .llava_like import TOWER, processed, tokenized

SIDE, PATCH = 64, 8  # of a tile: 8 x 8 patches, merged by twos
TOKENS = (SIDE // PATCH // 2) ** 2
TILE = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
SLIDING = {  # 16 layers, so that as many as three of full attention come before the last
    **base.TEXT,
    "num_hidden_layers": 16,
    "sliding_window": 20,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 4,
}


def built(
    name: str,
    words: Any,
    config: Callable[[], dict[str, Any]],
    silent: str,
    decoder_only: bool = False,
    model: str = "",
) -> Callable[[str], Any]:
    """Builds `model`ForConditionalGeneration by `name`Config, which never says the `silent` words.

    `model`: where it is not `name` too.
    `decoder_only`: its tower knows eager attention alone, or none.
    """

    def build(attention: str) -> Any:
        import transformers

        base.seed()
        how = {"": "eager", "vision_config": "eager", "text_config": attention} if decoder_only else attention
        made = getattr(transformers, f"{name}Config")(**config(), attn_implementation=how)
        whole = getattr(transformers, f"{model or name}ForConditionalGeneration")(made)
        return base.finish(whole, *words.convert_tokens_to_ids(silent.split()))

    return build


def tiles(most: int = 2, **how: Any) -> Any:
    """The image processor that most of them share."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    size = {"height": SIDE, "width": SIDE}
    return GotOcr2ImageProcessorPil(size=size, crop_to_patches=most > 1, max_patches=most, **how)


def qwen() -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**base.TEXT)


def _siglip() -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(**TILE, vision_use_head=False)


# --- InternVL and Qianfan-OCR -----------------------------------------------------------------------------------

_INTERN = partial(
    base.tokenizer,
    "<image>",
    start_image_token="<img>",
    end_image_token="</img>",
    context_image_token="<ctx>",
    video_token="<video>",
)


def _intern(name: str) -> Callable[[], dict[str, Any]]:
    def config() -> dict[str, Any]:
        import transformers

        vision = getattr(transformers, f"{name}VisionConfig")(**TILE, layer_scale_init_value=1.0)
        text = transformers.Qwen3Config(**base.TEXT) if name == "QianfanOCR" else qwen()
        image = _INTERN().convert_tokens_to_ids("<ctx>")
        return {
            "vision_config": vision,
            "text_config": text,
            "image_token_id": image,
            "image_seq_length": TOKENS,
        }

    return config


def _intern_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    """Pictures are tiles, clips are numbered pictures of one tile; all their pixels come in the text's order."""
    pixels, images, videos = [], [], []
    for sample in samples:
        pictures, moving = iter(sample.images), iter(sample.videos)
        for word in sample.text.split(" "):
            if word == "<image>":
                pixels.append(tiles()([next(pictures)], return_tensors="pt")["pixel_values"])
                images.append("<img>" + "<ctx>" * TOKENS * len(pixels[-1]) + "</img>")
            elif word == "<video>":
                frames = [Image.fromarray(frame) for frame in next(moving)[:2]]
                pixels.append(tiles(1)(frames, return_tensors="pt")["pixel_values"])
                videos.append(" ".join(["star : <img>" + "<ctx>" * TOKENS + "</img>"] * len(frames)))
    text = tokenized(_INTERN(), samples, images, videos)
    return {**text, **({"pixel_values": torch.cat(pixels)} if pixels else {})}


def _qianfan_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers.models.qianfan_ocr.processing_qianfan_ocr import QianfanOCRProcessor

    processor = QianfanOCRProcessor(image_processor=tiles(), tokenizer=_INTERN(), image_seq_length=TOKENS)
    return processed(processor, samples, max_patches=2)


# --- Cohere -----------------------------------------------------------------------------------------------------

_AYA = partial(base.tokenizer, "<image>", "<start>", "<end>", "<patch>", "TILE_1", "TILE_2", "TILE_GLOBAL")
_COMMAND = partial(
    base.tokenizer,
    boi_token="<start>",
    eoi_token="<end>",
    image_token="<image>",
    img_line_break_token="<line>",
)


def _aya() -> dict[str, Any]:
    from transformers import Cohere2Config

    image = _AYA().convert_tokens_to_ids("<patch>")
    return {"vision_config": _siglip(), "text_config": Cohere2Config(**SLIDING), "image_token_index": image}


def _aya_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import AyaVisionProcessor

    processor = AyaVisionProcessor(
        image_processor=tiles(),
        tokenizer=_AYA(),
        patch_size=PATCH,
        img_size=SIDE,
        downsample_factor=2,
        start_of_img_token="<start>",
        end_of_img_token="<end>",
        img_patch_token="<patch>",
    )
    return processed(processor, samples)


def _command() -> dict[str, Any]:
    from transformers import Cohere2Config

    image = _COMMAND().convert_tokens_to_ids("<image>")
    return {
        "vision_config": _siglip(),
        "text_config": Cohere2Config(**SLIDING),
        "image_token_id": image,
        "alignment_intermediate_size": 48,
    }


def _command_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import Cohere2VisionProcessor

    images = tiles()  # the family's own needs torchvision
    images.patch_size = SIDE // PATCH // 2  # of it, the processor asks the tokens along a tile's edge
    return processed(Cohere2VisionProcessor(image_processor=images, tokenizer=_COMMAND()), samples)


# --- GOT-OCR ----------------------------------------------------------------------------------------------------

_GOT = partial(base.tokenizer, "<img>", "</img>", "<imgpad>")


def _got(kind: str = "got_ocr2", vision_config: str = "GotOcr2VisionConfig") -> dict[str, Any]:
    module = import_module(f"transformers.models.{kind}.configuration_{kind}")
    vision = getattr(module, vision_config)(
        **{**TOWER, "image_size": SIDE, "patch_size": 4},  # 16 x 16 patches, halved twice
        output_channels=16,
        mlp_dim=24,
        window_size=4,
        global_attn_indexes=[1],
    )
    image = _GOT().convert_tokens_to_ids("<imgpad>")
    return {"vision_config": vision, "text_config": qwen(), "image_token_index": image}


def _got_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import GotOcr2Processor

    if not any(sample.images for sample in samples):  # the processor insists on pictures
        return tokenized(_GOT(), samples)
    processor = GotOcr2Processor(image_processor=tiles(1), tokenizer=_GOT())
    return processed(processor, samples, "<img><imgpad></img>", num_image_tokens=TOKENS)


# --- Ovis -------------------------------------------------------------------------------------------------------

_MARKS = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
_OVIS = partial(base.tokenizer, "<image>", "<IMG_ATOM>", *_MARKS)


def _ovis() -> dict[str, Any]:
    from transformers.models.ovis2.configuration_ovis2 import Ovis2VisionConfig

    return {
        "vision_config": Ovis2VisionConfig(**TILE, vocab_size=40, hidden_stride=2),
        "text_config": qwen(),
        "image_token_id": _OVIS().convert_tokens_to_ids("<IMG_ATOM>"),
        "visual_indicator_token_ids": _OVIS().convert_tokens_to_ids(_MARKS),
        "hidden_size": base.TEXT["hidden_size"],
        "vocab_size": base.TEXT["vocab_size"],
    }


def _ovis_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import Ovis2Processor
    from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

    images = Ovis2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_to_patches=True,
        max_patches=2,
        use_covering_area_grid=False,
    )
    processor = Ovis2Processor(image_processor=images, tokenizer=_OVIS(), image_seq_length=TOKENS)
    return processed(processor, samples)


FAMILIES = (
    # Its processor takes no video processor but torchvision's.
    Family(
        "internvl",
        built("InternVL", _INTERN(), _intern("InternVL"), "<img> </img> <ctx> <video>"),
        _intern_prompts,
        visual="image, video",
        inputs="tensors",
        visual_ids=(7,),
    ),
    Family(
        "qianfan_ocr",
        built("QianfanOCR", _INTERN(), _intern("QianfanOCR"), "<img> </img> <ctx>"),
        _qianfan_prompts,
        visual_ids=(7,),
    ),
    Family(
        "aya_vision",
        built("AyaVision", _AYA(), _aya, "<image> <start> <end> <patch> TILE_1 TILE_2 TILE_GLOBAL"),
        _aya_prompts,
        decoder="sliding window in 3 of 4 layers",
        visual_ids=(7,),
        kinds="wwwfwwwfwwwfwwwf",
    ),
    Family(
        "cohere2_vision",
        built("Cohere2Vision", _COMMAND(), _command, "<image> <start> <end> <line>"),
        _command_prompts,
        decoder="sliding window in 3 of 4 layers",
        visual_ids=(6,),
        kinds="wwwfwwwfwwwfwwwf",
    ),
    Family(
        "got_ocr2",
        built("GotOcr2", _GOT(), _got, "<img> </img> <imgpad>", decoder_only=True),
        _got_prompts,
        visual_ids=(6,),
    ),
    Family(
        "pp_chart2table",
        built(
            "PPChart2Table",
            _GOT(),
            partial(_got, "pp_chart2table", "PPChart2TableVisionConfig"),
            "<img> </img> <imgpad>",
            decoder_only=True,
            model="GotOcr2",
        ),
        _got_prompts,
        visual_ids=(6,),
    ),
    Family(
        "ovis2",
        built("Ovis2", _OVIS(), _ovis, " ".join(["<IMG_ATOM>", *_MARKS])),
        _ovis_prompts,
        visual_ids=(5,),
    ),
)
