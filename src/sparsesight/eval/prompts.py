"""Turns lmms-eval's messages into model inputs: conversation settings, pictures and clips."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint_limits import apply_template, check_prompt, making_prompt
from ..compare import PLAIN_PROMPT
from ..errors import SparseSightError
from ..suggestions import did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class PromptSetting:
    """How a checkpoint was published to be asked.

    Attributes:
        name: what the run's records call it.
        system: sentence before the conversation; "" for none beside the chat template's own.
        pad_to_square: put pictures on a square of the mean colour before they are scaled, in place of cutting their
            longer side off.
    """

    name: str
    system: str = ""
    pad_to_square: bool = False


# "own": the checkpoint's chat template and image processor as they come.
# "llava-1.5": conversation template vicuna_v1 and image_aspect_ratio "pad" of LLaVA-1.5's evaluation scripts (Liu et
# al., Improved Baselines with Visual Instruction Tuning, 2023; llava/conversation.py of its repository).
SETTINGS = {
    setting.name: setting
    for setting in (
        PromptSetting("own"),
        PromptSetting(
            "llava-1.5",
            system="A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions.",
            pad_to_square=True,
        ),
    )
}


def choose_setting(name: str, pretrained: str) -> PromptSetting:
    """The setting of that name; ``auto`` is LLaVA-1.5's for checkpoints called so, else the checkpoint's own.

    Raises:
        SparseSightError: for a name that is unknown.
    """
    if name == "auto":
        name = "llava-1.5" if re.search(r"llava-v?1\.5", Path(pretrained).name, re.IGNORECASE) else "own"
    if name not in SETTINGS:
        known = ["auto", *SETTINGS]
        raise SparseSightError(f"prompts={name!r} is unknown; known are {known}{did_you_mean(name, known)}")
    return SETTINGS[name]


def padding_processor(image_processor: Any) -> Any:
    """LLaVA's image processor, which pads to a square, with the sizes and means of a CLIP one.

    Pillow's: torchvision scales differently in the last digits, and the published figures were made with Pillow.

    Raises:
        SparseSightError: for an image processor that does not scale to a fixed square.
    """
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    options = image_processor.to_dict()
    if "crop_size" not in options or not options.get("do_center_crop"):
        raise SparseSightError(
            f"prompts='llava-1.5' pads pictures to a square, which {type(image_processor).__name__} cannot: use "
            "prompts='own'"
        )
    return LlavaImageProcessorPil(**{**options, "do_pad": True})


class Prompts:
    """Makes the inputs of a batch of conversations.

    Args:
        processor: of the model.
        setting: how the checkpoint is asked.
        frames: how many frames of a clip are shown.
        clips: whether the model takes clips; if not, frames are shown as pictures.
    """

    def __init__(self, processor: Any, setting: PromptSetting, frames: int, clips: bool) -> None:
        self.processor = processor
        self.setting = setting
        self.frames = frames
        self.clips = clips
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        if setting.pad_to_square:
            processor.image_processor = padding_processor(processor.image_processor)

    def conversation(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A task's messages in the form that chat templates take, clips read.

        Raises:
            SparseSightError: for content that is neither text, picture nor clip, or text with a picture's placeholder.
        """
        turns = [
            {"role": m["role"], "content": [x for part in m["content"] for x in self._content(part)]}
            for m in messages
        ]
        if self.setting.system and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self.setting.system}]})
        return turns

    def inputs(self, conversations: list[list[dict[str, Any]]]) -> Any:
        """Model inputs of a left-padded batch."""
        options = {"padding": True, "return_tensors": "pt"}
        if getattr(self.processor, "chat_template", None):
            return apply_template(
                self.processor,
                conversations,
                tokenize=True,
                return_dict=True,
                processor_kwargs=options,
            )
        texts = [self._without_template(turns) for turns in conversations]
        images = [p["image"] for turns in conversations for p in _parts(turns) if p["type"] == "image"]
        with making_prompt():
            inputs = self.processor(text=texts, images=images or None, **options)
        check_prompt(inputs, [pictures_in(turns) for turns in conversations])
        return inputs

    def _without_template(self, turns: list[dict[str, Any]]) -> str:
        """A prompt for processors without a chat template."""
        placeholder = getattr(self.processor, "image_token", None) or "<image>"
        system = "".join(p["text"] + " " for t in turns if t["role"] == "system" for p in t["content"])
        parts = [p for turn in turns if turn["role"] != "system" for p in turn["content"]]
        images = "\n".join(placeholder for part in parts if part["type"] == "image")
        question = "\n".join(part["text"] for part in parts if part["type"] == "text")
        return system + PLAIN_PROMPT.format(image=images, question=question)

    def _content(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        kind = part["type"]
        if kind == "text":
            placeholder = getattr(self.processor, "image_token", None) or "<image>"
            if placeholder in part["text"]:
                raise SparseSightError(
                    f"the task's text contains {placeholder!r}, which stands for a picture of this model"
                )
            return [dict(part)]
        if kind == "image":
            return [{"type": "image", "image": part["url"]}]
        if kind == "video":
            shown = sample_frames(part["url"], self.frames)
            if self.clips:
                return [{"type": "video", "video": shown}]
            return [{"type": "image", "image": frame} for frame in shown]
        raise SparseSightError(f"the task asks about {kind!r}, which this model cannot read")


def pictures_in(turns: list[dict[str, Any]]) -> int:
    """How many pictures and clips a conversation shows."""
    return sum(part["type"] != "text" for part in _parts(turns))


def _parts(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for turn in turns for part in turn["content"]]


def frame_indices(length: int, count: int) -> list[int]:
    """``count`` frames of ``length``, evenly from the first to the last; all if there are no more.

    Raises:
        SparseSightError: for a clip without frames.
    """
    if length < 1:
        raise SparseSightError("the clip has no frames: copy or download it again")
    if count >= length:
        return list(range(length))
    if count == 1:
        return [length // 2]
    return [round(i * (length - 1) / (count - 1)) for i in range(count)]


def sample_frames(path: Any, count: int) -> list[Image]:
    """``count`` frames of a video file, evenly spaced, as RGB pictures.

    Raises:
        SparseSightError: missing or unreadable file; the message names it.
    """
    import av

    name = os.fspath(path)
    try:
        # Counted by decoding: containers state wrong numbers of frames, or none.
        with av.open(name) as clip:
            length = sum(1 for _ in clip.decode(video=0))
        chosen = frame_indices(length, count)
        with av.open(name) as clip:
            wanted = set(chosen)
            found = [f.to_image() for i, f in enumerate(clip.decode(video=0)) if i in wanted]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise SparseSightError(f"clip {name!r} cannot be read ({error}): check the file") from error
    return found
