"""Settings of a checkpoint that would scale pictures to a wall: one sentence before a picture is touched."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from sparsesight import SparseSightError, bundled
from sparsesight.checkpoint_limits import _pictures, check_prompt
from sparsesight.compare import prepare
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.eval.scene_task import SceneQuestions
from sparsesight.hf.checkpoint_sizes import check_picture_sizes
from sparsesight.hf.loading import Loaded, load_model

LARGE = {"height": 20_000, "width": 20_000}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "shortest edge": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 20_000}}),
    "one number": ("CLIPImageProcessorPil", {"size": 20_000}),
    "cropped": ("CLIPImageProcessorPil", {"crop_size": LARGE}),
    "both edges": ("SiglipImageProcessorPil", {"size": LARGE}),
    "longest edge": ("Idefics3ImageProcessorPil", {"size": {"longest_edge": 20_000}}),
    "largest tile": ("Idefics3ImageProcessorPil", {"max_image_size": {"longest_edge": 20_000}}),
    "both kinds of edges": (
        "Idefics2ImageProcessorPil",
        {"size": {"shortest_edge": 20_000, "longest_edge": 20_000}},
    ),
    "grids": ("LlavaNextImageProcessorPil", {"image_grid_pinpoints": [[336, 672], [336, 20_000]]}),
    "least area": ("Qwen2VLImageProcessorPil", {"size": {"shortest_edge": 2 * 10**7, "longest_edge": 10**9}}),
    "patches": ("Qwen2VLImageProcessorPil", {"patch_size": 20_000}),
    "merged patches": ("Qwen2VLImageProcessorPil", {"merge_size": 20_000}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_pictures_scaled_to_a_wall(case: str) -> None:
    name, settings = SETTINGS[case]
    make = getattr(transformers, name)
    check_picture_sizes(SimpleNamespace(image_processor=make()), "model 'it'")
    for kind in ("image", "video"):
        processor = SimpleNamespace(**{f"{kind}_processor": make(**settings)})
        with pytest.raises(SparseSightError, match=r"model 'it': its .* more than the limit of") as caught:
            check_picture_sizes(processor, "model 'it'")
        assert len(str(caught.value)) < 300


def test_areas_are_no_edges() -> None:
    """Qwen2-VL takes the largest area as ``longest_edge``."""
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}
    processor = transformers.Qwen2VLImageProcessorPil(size=size)
    check_picture_sizes(SimpleNamespace(image_processor=processor), "it")


def test_a_folder_is_refused_before_its_weights_are_read(folder: Path) -> None:
    file = folder / "processor_config.json"
    data = json.loads(file.read_text())
    data["image_processor"]["size"] = {"shortest_edge": 20_000}
    file.write_text(json.dumps(data))
    start = time.process_time()
    with pytest.raises(SparseSightError, match="shortest_edge=20000, more than the limit of 4,096"):
        load_model(str(folder), "cpu")
    assert time.process_time() - start < 10


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model(None, "cpu")


def tiles(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
    """What a processor makes that cuts a picture into thousands of tiles; it takes no memory."""
    return {"pixel_values": torch.zeros(1).expand(4000, 3, 336, 336)}


@pytest.mark.parametrize("template", ["template", "plain prompt"])
@pytest.mark.parametrize("entrance", ["ask", "eval", "scenes"])
def test_thousands_of_tiles(
    loaded: Loaded, entrance: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that becomes so much keeps a model busy for hours: one sentence before it is encoded."""
    if template == "plain prompt":
        monkeypatch.setattr(loaded.processor, "chat_template", None)
    picture, make = bundled.default_picture(), entrances(loaded)[entrance]
    make(Image.open(picture))
    with monkeypatch.context() as patched:
        patched.setattr(type(loaded.processor.image_processor), "__call__", tiles)
        with pytest.raises(
            SparseSightError, match=r"makes 1,354,75\d,\d+ numbers of 1 picture, more than the limit"
        ):
            make(Image.open(picture))
    if entrance != "scenes":  # whose tokens follow from the tower's output
        monkeypatch.setattr(loaded.processor, "num_additional_image_tokens", 70_000)
        with pytest.raises(
            SparseSightError, match=r"makes 70,\d+ tokens of .* 1 picture, more than the limit"
        ):
            make(Image.open(picture))


def entrances(loaded: Loaded) -> dict[str, Callable[[Any], Any]]:
    """How commands make model inputs of a picture."""
    prompts = Prompts(loaded.processor, choose_setting("own", "it"), 8, False)

    def asked(picture: Any) -> Any:
        content = [{"type": "image", "url": picture}, {"type": "text", "text": "What?"}]
        return prompts.inputs([prompts.conversation([{"role": "user", "content": content}])])

    def encoded(picture: Any) -> Any:
        task = object.__new__(SceneQuestions)
        task._processor, task._model, task._features, task._reuse = loaded.processor, loaded.model, {}, True
        with torch.inference_mode():
            return task._encoded([picture])

    return {"ask": lambda picture: prepare(loaded, picture, "What?"), "eval": asked, "scenes": encoded}


def test_many_pictures_of_usual_size_are_taken() -> None:
    """The limit is one of each picture, of Qwen2-VL's largest here."""
    inputs = {
        "input_ids": torch.zeros(1, 8 * 16_384),
        "pixel_values": torch.zeros(1).expand(8 * 65_536, 1176),
    }
    check_prompt(inputs, [8])
    clip = [{"role": "user", "content": [{"type": "video", "video": [0] * 8}, {"type": "text", "text": "?"}]}]
    assert _pictures(clip) == 8


@pytest.mark.slow
def test_the_defaults_of_every_processor_are_taken() -> None:
    tried = 0
    for found in IMAGE_PROCESSOR_MAPPING_NAMES.values():
        for name in filter(None, found.values() if isinstance(found, dict) else found):
            try:
                processor = getattr(transformers, name)()
            except (ImportError, TypeError):  # it needs torchvision, or has no defaults
                continue
            check_picture_sizes(SimpleNamespace(image_processor=processor), name)
            tried += 1
    assert tried > 100
