"""Conversations and pictures as LLaVA-1.5's published evaluation makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av", reason="needs PyAV, which comes with lmms-eval: pip install sparsesight[eval]")

from sparsesight import SparseSightError, bundled
from sparsesight.eval.prompts import SETTINGS, Prompts, choose_setting, frame_indices, sample_frames

SENTENCE = SETTINGS["llava-1.5"].system


@pytest.fixture
def processor() -> Any:
    return bundled.load()[1]


def ask(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("name", "pretrained", "chosen"),
    [
        ("auto", "llava-hf/llava-1.5-7b-hf", "llava-1.5"),
        ("auto", "/models/llava-v1.5-13b/", "llava-1.5"),
        ("auto", "bundled", "own"),
        ("auto", "llava-hf/llava-v1.6-vicuna-7b-hf", "own"),
        ("own", "llava-hf/llava-1.5-7b-hf", "own"),
    ],
)
def test_setting_by_name(name: str, pretrained: str, chosen: str) -> None:
    assert choose_setting(name, pretrained).name == chosen


def test_the_prompt_is_vicuna_v1(processor: Any) -> None:
    prompts = Prompts(processor, SETTINGS["llava-1.5"], 8, clips=False)
    turns = prompts.conversation(
        ask({"type": "image", "url": picture(9, 9)}, {"type": "text", "text": "Who?"})
    )
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == f"{SENTENCE} USER: <image>\nWho? ASSISTANT:"
    own = Prompts(processor, SETTINGS["own"], 8, clips=False).conversation(
        ask({"type": "text", "text": "Who?"})
    )
    assert processor.apply_chat_template(own, add_generation_prompt=True) == "USER: Who? ASSISTANT:"


def test_a_task_s_own_system_sentence_stays(processor: Any) -> None:
    prompts = Prompts(processor, SETTINGS["llava-1.5"], 8, clips=False)
    told = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        *ask({"type": "text", "text": "Who?"}),
    ]
    assert [turn["role"] for turn in prompts.conversation(told)] == ["system", "user"]


def test_without_a_chat_template_the_prompt_is_the_same(processor: Any) -> None:
    prompts = Prompts(processor, SETTINGS["llava-1.5"], 8, clips=False)
    turns = prompts.conversation(
        ask({"type": "image", "url": picture(9, 9)}, {"type": "text", "text": "Who?"})
    )
    templated = prompts.inputs([turns])
    processor.chat_template = None
    plain = prompts.inputs([turns])
    assert torch.equal(templated["input_ids"], plain["input_ids"])
    assert torch.equal(templated["pixel_values"], plain["pixel_values"])


@pytest.mark.parametrize("size", [(50, 20), (20, 50), (31, 30), (400, 333)])
def test_pictures_are_padded_to_a_square_of_the_mean_colour(size: tuple[int, int], processor: Any) -> None:
    """Against the published rule by hand: paste into the middle, then scale and normalise as CLIP does."""
    image = picture(*size)
    mean = tuple(int(255 * x) for x in processor.image_processor.image_mean)
    side = max(size)
    square = Image.new("RGB", (side, side), mean)
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    scaled = np.asarray(square.resize((336, 336), Image.Resampling.BICUBIC), dtype=np.float32)
    clip = processor.image_processor
    expected = (scaled / 255 - np.array(clip.image_mean)) / np.array(clip.image_std)

    prompts = Prompts(processor, SETTINGS["llava-1.5"], 8, clips=False)
    inputs = prompts.inputs(
        [prompts.conversation(ask({"type": "image", "url": image}, {"type": "text", "text": "?"}))]
    )
    found = inputs["pixel_values"][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_an_image_processor_that_cannot_pad_is_refused(processor: Any) -> None:
    processor.image_processor.do_center_crop = False
    with pytest.raises(SparseSightError, match="prompts='own'"):
        Prompts(processor, SETTINGS["llava-1.5"], 8, clips=False)


def test_batches_are_padded_on_the_left(processor: Any) -> None:
    prompts = Prompts(processor, SETTINGS["own"], 8, clips=False)
    long, short = "What color is the large heart?", "Who?"
    inputs = prompts.inputs([prompts.conversation(ask({"type": "text", "text": t})) for t in (long, short)])
    mask = inputs["attention_mask"]
    assert mask[0].all() and not mask[1, 0] and mask[1, -1]


@pytest.mark.parametrize(
    ("length", "count", "chosen"),
    [(10, 3, [0, 4, 9]), (2, 8, [0, 1]), (9, 1, [4]), (3, 3, [0, 1, 2]), (100, 2, [0, 99])],
)
def test_frames_are_spread_evenly(length: int, count: int, chosen: list[int]) -> None:
    assert frame_indices(length, count) == chosen


def clip_file(path: Path, count: int) -> Path:
    import av

    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for i in range(count):
            clip.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (16, 16), (10 * i, 0, 0)))))
        clip.mux(stream.encode())
    return path


def test_frames_of_a_clip_are_shown_as_pictures(tmp_path: Path, processor: Any) -> None:
    path = clip_file(tmp_path / "clip.mkv", 7)
    assert [frame.getpixel((3, 3))[0] for frame in sample_frames(path, 3)] == [0, 30, 60]
    question = ask({"type": "video", "url": str(path)}, {"type": "text", "text": "Who?"})
    turns = Prompts(processor, SETTINGS["own"], 3, clips=False).conversation(question)
    assert [part["type"] for part in turns[0]["content"]] == ["image", "image", "image", "text"]
    (shown, _) = Prompts(processor, SETTINGS["own"], 3, clips=True).conversation(question)[0]["content"]
    assert shown["type"] == "video" and len(shown["video"]) == 3


def test_a_clip_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    with pytest.raises(SparseSightError, match=r"bad\.mp4"):
        sample_frames(tmp_path / "bad.mp4", 3)
    with pytest.raises(SparseSightError, match=r"gone\.mp4"):
        sample_frames(tmp_path / "gone.mp4", 3)


def test_sound_is_refused(processor: Any) -> None:
    with pytest.raises(SparseSightError, match="'audio'"):
        Prompts(processor, SETTINGS["own"], 3, clips=False).conversation(
            ask({"type": "audio", "url": "a.wav"})
        )
