"""Settings of a checkpoint that would scale pictures to a wall: one sentence before a picture is touched."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from sparsesight import SparseSightError
from sparsesight.hf.checkpoint_sizes import check_picture_sizes
from sparsesight.hf.loading import load_model

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
