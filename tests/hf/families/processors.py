"""Every family's real processor, small enough for its tiny model; most need torchvision, some a package more.

Prompts of the test matrix come from these processors where they run without torchvision. Here they are whole, to be
saved with a checkpoint and loaded again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from . import base, llava_tiles, newer_processors
from . import own_processors as by
from .base import Family, Sample
from .grids import Clips


def processor_of(family: Family) -> Any:
    """Its own processor, whole."""
    made = BY_HAND.get(family.name)
    processor = made() if made is not None else _with_clips(_used(family), family.name.split("-")[0])
    if family.name in PICTURE:
        processor.chat_template = TEMPLATE.replace("PICTURE", PICTURE[family.name])
    return processor


def _used(family: Family) -> Any:
    """The processor that the matrix makes prompts with."""
    from transformers import ProcessorMixin

    found: list[Any] = []
    begin = ProcessorMixin.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        found.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessorMixin, "__init__", noted)
        family.prompts([Sample("<image> what is the red star ?", (base.picture(1),))])
    return found[-1]


def _with_clips(processor: Any, kind: str) -> Any:
    """The same of its own class, with its own video processor where the matrix has a stand-in."""
    import transformers
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    images, own = processor.image_processor, type(processor)
    if own.__module__.startswith("transformers") and not isinstance(
        getattr(processor, "video_processor", None), Clips
    ):
        return processor
    name: Any = VIDEO_PROCESSOR_MAPPING_NAMES.get(ALIKE.get(kind, kind))
    name = name["torchvision"] if isinstance(name, dict) else name
    sizes = {"patch_size", "merge_size", "size"} & images.to_dict().keys()
    more = {}
    if name is not None:
        same = {k: getattr(images, k) for k in sizes}
        more["video_processor"] = getattr(transformers, name)(**same, **VIDEO.get(kind, {}))
    return own.__mro__[1](image_processor=images, tokenizer=processor.tokenizer, **more)


# Families whose video processor is another's.
ALIKE = {"glm4v_moe": "glm4v", "glm_ocr": "glm46v", "glmga": "glm46v"}
VIDEO = {"ernie4_5_vl_moe": {"draw_on_frames": False}}  # it would need the font of the published checkpoint
# What stands for a picture in a chat template, where it is not the processor's `image_token` alone.
PICTURE = {"hunyuan_vl": "<im_start><img><im_end>", "qianfan_ocr": "<image>"}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %} {{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}ASSISTANT :"
)
# Families without: why.
WITHOUT = {
    "aria": "how large its pictures become is said in each call",
    "deepseek_ocr2": "its config is saved otherwise than it was given, so that the tiny model does not load again",
    "fuyu": "it takes one picture per prompt, and its text is made of the picture's size",
    "gemma3n": "its tower needs timm",
    "got_ocr2": "it writes 256 tokens whatever the model makes",
    "pp_chart2table": "it writes 256 tokens whatever the model makes",
    "shieldgemma2": "it classifies; its tiny model is Gemma 3's",
    "apertus1p5": "its processor came with transformers 5.24, as the model did, and has not been tried",
}
BY_HAND: dict[str, Callable[[], Any]] = {
    "llava-pixtral": by.pixtral,
    "mistral3": by.pixtral,
    "mistral3-ministral3": by.pixtral,
    "mistral3-mistral4": by.pixtral,
    "llava_next_video": by.next_video,
    "llava_onevision": by.onevision,
    "video_llava": by.video_llava,
    "internvl": lambda: by.intern_vl(llava_tiles._INTERN()),
    "fast_vlm": by.fast,
    "qwen2_5_omni_thinker": lambda: by.omni("Qwen2_5Omni"),
    "qwen3_omni_moe_thinker": lambda: by.omni("Qwen3OmniMoe"),
    "smolvlm": by.smolvlm,
    "perception_lm": by.perception,
    "lfm2_vl": by.lfm2,
    "qwen2_vl": lambda: by.qwen_vl("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": lambda: by.qwen_vl("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": lambda: by.qwen_vl("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    **newer_processors.BY_HAND,
}
