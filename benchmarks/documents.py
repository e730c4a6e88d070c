"""What rendered documents save before the vision tower: parts that neighbours predict, and equal tiles.

    python benchmarks/documents.py --out FOLDER

Draws a blank page, a letter, a form, an interface and a chart, and counts what is left of each: visual tokens of
Qwen2-VL's grid after ``drop_predicted``, and tiles after ``encode_once`` of LLaVA-NeXT (336 pixels) and InternVL (448).
Then it takes the processor time, in float32 on one thread, with and without: from pixels to the first token in a random
model of Qwen2-VL's classes, and of encoding the tiles in one of InternVL's. Medians of runs that take turns.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sparsesight import drop_predicted, sparsify
from sparsesight.hf.predicted import kept_units
from sparsesight.hf.vision.row_hash import first_equal

WIDTH, HEIGHT = 672, 896  # multiples of 28, Qwen2-VL's unit: its processor does not resample them
STEP = 0.0155  # a little over one step of 255, in the numbers of Qwen2-VL's processor
THRESHOLDS = (0.0, 4 * STEP, 8 * STEP)
WORDS = "the total of all items is due within thirty days of the date of this letter".split()  # noqa: SIM905
TEXT = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
PICTURE, VOCABULARY, TAIL = 5, 64, 16  # id of a visual token; tokens of text behind a picture


def sheet(colour: str = "white") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (WIDTH, HEIGHT), colour)
    return image, ImageDraw.Draw(image)


def lines(draw: ImageDraw.ImageDraw, left: int, top: int, count: int, words: int, pitch: int = 22) -> None:
    """Text, each line with other words."""
    font = ImageFont.load_default(14)
    for i in range(count):
        said = " ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(words))
        draw.text((left, top + i * pitch), said, "black", font)


def blank() -> Image.Image:
    return sheet()[0]


def letter() -> Image.Image:
    image, draw = sheet()
    lines(draw, 70, 80, 3, 3)
    lines(draw, 70, 220, 18, 12)
    lines(draw, 70, 720, 1, 3)
    return image


def form() -> Image.Image:
    image, draw = sheet()
    lines(draw, 60, 40, 1, 6)
    for row in range(9):
        top = 110 + 64 * row
        lines(draw, 60, top, 1, 2)
        draw.rectangle((240, top - 8, 610, top + 28), outline="black", width=2)
        if row % 3 == 0:
            lines(draw, 252, top, 1, 3)
    return image


def interface() -> Image.Image:
    """A window with a bar, a list, a flat area and two buttons."""
    image, draw = sheet("#f3f3f3")
    draw.rectangle((0, 0, WIDTH, 55), fill="#2b579a")
    draw.rectangle((0, 56, 195, HEIGHT), fill="#e1e5ea")
    for i in range(8):
        lines(draw, 24, 80 + 56 * i, 1, 2)
    lines(draw, 230, 90, 4, 9)
    for left in (392, 532):
        draw.rectangle((left, 812, left + 111, 855), fill="#2b579a")
    return image


def chart() -> Image.Image:
    image, draw = sheet()
    for i in range(6):
        draw.line((80, 120 + 100 * i, 620, 120 + 100 * i), "#c0c0c0")
    for i, height in enumerate((420, 180, 300, 90, 360)):
        draw.rectangle((110 + 100 * i, 620 - height, 170 + 100 * i, 620), fill="#4472c4")
    draw.line((80, 620, 620, 620), "black", 2)
    lines(draw, 90, 640, 1, 10)
    lines(draw, 90, 40, 1, 5)
    return image


def compressed(image: Image.Image) -> Image.Image:
    """As JPEG of quality 90, whose noise around strokes no neighbour predicts."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return Image.open(file).convert("RGB")


def scanned(image: Image.Image) -> Image.Image:
    """With noise of up to two steps of 255 in every pixel."""
    pixels = np.asarray(image).astype(int)
    noise = np.random.default_rng(0).integers(-2, 3, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


PAGES: dict[str, Callable[[], Image.Image]] = {
    "blank page": blank,
    "letter": letter,
    "form": form,
    "interface": interface,
    "chart": chart,
    "form, as JPEG": lambda: compressed(form()),
    "form, with noise": lambda: scanned(form()),
}
GRID = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2)
ANYRES = LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
INTERN = GotOcr2ImageProcessorPil(
    size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=1, max_patches=12
)


def counted(image: Image.Image) -> dict[str, Any]:
    """What is left of one page."""
    made = GRID(image, return_tensors="pt")
    found: dict[str, Any] = {"tokens": len(made["pixel_values"]) // 4}
    for threshold in THRESHOLDS:
        kept = kept_units(made["pixel_values"], made["image_grid_thw"], 2, threshold)
        found[f"at {threshold:.3f}"] = int(sum(x.sum() for x in kept))
    for name, processor in (("LLaVA-NeXT", ANYRES), ("InternVL", INTERN)):
        tiles = processor(image, return_tensors="pt")["pixel_values"]
        tiles = tiles[0] if tiles.ndim == 5 else tiles
        found[name] = (len(tiles), len(set(first_equal(tiles).tolist())))
    return found


def prompt(tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.cat((torch.full((1, tokens), PICTURE), torch.arange(10, 10 + TAIL)[None]), 1)
    kinds = (ids == PICTURE).int()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}


def grid_runs(image: Image.Image) -> tuple[Callable[[], None], Callable[[], None]]:
    """A prefill of a model like Qwen2-VL, whole and without what is predicted."""
    made = GRID(image, return_tensors="pt")
    inputs = {**prompt(len(made["pixel_values"]) // 4), **made}
    return lambda: run(QWEN, inputs), lambda: run(QWEN, drop_predicted(QWEN, inputs))


def tile_runs(image: Image.Image) -> tuple[Callable[[], None], Callable[[], None]]:
    """Encoding of a page's tiles in a model like InternVL, and of equal ones once."""
    tiles = INTERN(image, return_tensors="pt")["pixel_values"]

    def encode() -> None:
        with torch.no_grad():
            INTERNVL.get_image_features(tiles, return_dict=True)

    def once() -> None:
        with sparsify(INTERNVL, retain=1.0, encode_once=True):
            encode()

    return encode, once


def run(model: Any, inputs: Any) -> None:
    with torch.no_grad():
        model(**inputs, logits_to_keep=1)


def timed(runs: tuple[Callable[[], None], Callable[[], None]], repeats: int) -> list[float]:
    """Medians in seconds of the processor, after one turn that is not counted."""
    seconds: list[list[float]] = [[], []]
    for number in range(repeats + 1):
        for of, call in zip(seconds, runs, strict=True):
            started = time.process_time()
            call()
            if number:
                of.append(time.process_time() - started)
    return [median(x) for x in seconds]


def models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    axes = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    qwen = Qwen2VLConfig(
        text_config={**TEXT, "vocab_size": VOCABULARY, "rope_parameters": axes},
        vision_config={"embed_dim": 256, "hidden_size": 512, "depth": 4, "num_heads": 4, "patch_size": 14},
        image_token_id=PICTURE,
    )
    vision = InternVLVisionConfig(**TOWER, image_size=448, patch_size=14)
    intern = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**{**TEXT, "num_hidden_layers": 3}, vocab_size=VOCABULARY),
        image_token_id=PICTURE,
    )
    return Qwen2VLForConditionalGeneration(qwen).eval(), InternVLForConditionalGeneration(intern).eval()


def table(found: dict[str, dict[str, Any]]) -> str:
    heads = [
        "page",
        "tokens",
        *(f"left at {x:.3f}" for x in THRESHOLDS),
        "tiles of LLaVA-NeXT",
        "of InternVL",
    ]
    heads += ["prefill, grid", "without the predicted", "encoding of InternVL's tiles", "equal ones once"]
    rows = [heads, ["---"] * len(heads)]
    for name, x in found.items():
        left = [f"{x[f'at {t:.3f}']} ({x[f'at {t:.3f}'] / x['tokens']:.0%})" for t in THRESHOLDS]
        tiles = [f"{x[of][1]} of {x[of][0]}" for of in ("LLaVA-NeXT", "InternVL")]
        times = [f"{y:.2f} s" for y in (*x["grid"], *x["once"])]
        rows.append([name, str(x["tokens"]), *left, *tiles, *times])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, draw in PAGES.items():
        image = draw()
        found[name] = counted(image)
        found[name]["grid"] = timed(grid_runs(image), given.repeats)
        found[name]["once"] = timed(tile_runs(image), given.repeats)
        print(name, found[name], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.out / "table.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    QWEN, INTERNVL = models()
    main()
