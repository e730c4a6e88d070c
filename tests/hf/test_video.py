"""Clips: their frames are known and reported, budgets go over the whole clip or frame by frame, long ones work."""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationMixin

from sparsesight import FastVID, Method, Random, SparseVLM, SparseVLMPlus, sparsify
from sparsesight.core.budget import recycled_counts
from sparsesight.hf.model_parts import inspect_model, visual_ids
from sparsesight.hf.prompt.inputs import among
from sparsesight.profiling.peak_memory import Memory
from tests.hf.families.base import CLIPS, SAMPLES, Family
from tests.hf.masked_keys import hidden
from tests.hf.test_sparsify import small_llama
from tests.in_turn import in_turn

# A prompt with a picture and a clip: tokens of each frame of the clip, and whether they are known inside generate().
FRAMES: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "video_llava": ("llava_like", (17, 17), True),
    "llava_next_video": ("llava_like", (4, 4, 4, 4), True),
    "llava_onevision": ("llava_like", (4, 4, 4, 5), True),
    "perception_lm": ("llava_more", (16, 16), True),
    "qwen2_vl": ("qwen_like", (16, 16, 16), True),
    "qwen2_5_vl": ("qwen_like", (16, 16, 16), True),
    "qwen3_vl": ("qwen_like", (16, 16, 16), True),
    "ernie4_5_vl_moe": ("grid_like", (16, 16, 16), True),
    "video_llama_3": ("grid_like", (16, 11, 11, 10, 11, 11), True),
    "exaone4_5": ("grid_like", (16, 16, 16), False),  # generate() takes the grid away before the prefill
    "minicpm_ocr": ("minicpm_like", (16,) * 6, True),
    "minimax_m3_vl": ("rest_sparse", (9, 9, 9), True),
    "muse_glimmer": ("muse_like", (16, 16, 16), True),
}


@lru_cache(maxsize=4)
def family(name: str, module: str) -> tuple[Family, Any]:
    found = importlib.import_module(f"tests.hf.families.{module}").FAMILIES
    made = next(f for f in found if f.name == name)
    try:
        model = made.build("eager")
    except AttributeError:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    if "pixel_values" in inspect.signature(model.forward).parameters:
        return made, model

    def prompts(samples: Any) -> dict[str, Any]:  # Video-LLaVA of older transformers
        prompt = made.prompts(samples)
        pictures = prompt.pop("pixel_values", None)
        return prompt if pictures is None else {**prompt, "pixel_values_images": pictures}

    return replace(made, prompts=prompts), model


# Older transformers encode clips within the prefill, and leave the grids to it.
GRIDS_STAY = not hasattr(GenerationMixin, "_prepare_multimodal_encoder_kwargs_for_generation")


def generate(model: Any, prompt: Any, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Three new tokens [b, t] and their logits [b, t, vocab]."""
    how = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, **how}
    out = model.generate(**prompt, return_dict_in_generate=True, **how)
    return out.sequences[:, -3:], torch.stack(out.logits, 1)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("how", ["forward", "generate"])
def test_frames_are_known(name: str, how: str) -> None:
    module, expected, in_generate = FRAMES[name]
    made, model = family(name, module)
    # The clip in a batch, behind another prompt with a clip and one without any.
    with (
        sparsify(model, "random", layers=inspect_model(model).prunable[:1], retain=0.7) as run,
        torch.no_grad(),
    ):
        prompt = made.prompts([CLIPS[0], SAMPLES[2], CLIPS[1]])
        generate(model, prompt) if how == "generate" else model(**prompt)
        samples, kept = run.report.samples, run.kept[0]
    assert samples[1].clips == ()
    assert [clip.kind for clip in samples[0].clips] == ["video"]
    picture, clip = samples[2].clips
    assert picture.kind == "image" and picture.frames_known and len(picture.frames) == 1
    if how == "generate" and not (in_generate or GRIDS_STAY):
        assert not clip.frames_known and clip.frames == (sum(expected),)
    else:
        assert clip.frames_known and clip.frames == expected
    for sample, stay in zip(samples, kept, strict=True):
        sizes = [size for clip in sample.clips for size in clip.frames]
        assert sum(sizes) == sample.visual_tokens
        parts = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        left = [n for clip in sample.clips for n in clip.kept[0]]
        assert left == parts[stay].bincount(minlength=len(sizes)).tolist()


METHODS: list[Method] = [
    SparseVLMPlus(0.4, per_frame=True),
    SparseVLM(0.4, per_frame=True),
    SparseVLM(0.4, recycle=0.0, per_frame=True),
    Random(0.4, per_frame=True),
    FastVID(0.4, segments=2, interval=2),
    SparseVLM(1.0, (1, 3), "compact", adaptive=True, scale=3.0, per_frame=True),
]
DRIVEN = ("video_llava", "qwen2_vl", "llava_onevision")


def skip_pooled(name: str, method: Method) -> None:
    if method.requires_vision and name == "llava_onevision":
        pytest.skip("its clips are pooled after the tower: no token has patches of its own")


def name_of(value: Any) -> str:
    if not isinstance(value, Method):
        return str(value)
    return f"{value.name}-{value.recycled_fraction}-{value.data_dependent}"


@pytest.mark.parametrize(("name", "method"), in_turn(DRIVEN, METHODS), ids=name_of)
def test_every_frame_keeps_the_same_share(name: str, method: Method) -> None:
    skip_pooled(name, method)
    made, model = family(name, FRAMES[name][0])
    if method.positions == "compact" and name == "qwen2_vl":
        pytest.skip("compact positions are refused for several axes")
    with sparsify(model, method, trace=True) as run, torch.no_grad():
        model(**made.prompts([*CLIPS, *SAMPLES]))
    for number, step in enumerate(run.trace):
        assert step.stage.frame is not None
        for i, sample in enumerate(run.report.samples):
            sizes = [size for clip in sample.clips for size in clip.frames]
            # Tokens that were merged before count for the frame of their cluster's centre.
            stay = step.stage.frame[i][step.selection.keep[i]].bincount(minlength=len(sizes))[: len(sizes)]
            share = sum(stay) / max(sum(sizes), 1)
            assert all(abs(k - share * size) < 1 for k, size in zip(stay, sizes, strict=True)), (i, stay)
            if number == 0 or not method.recycled_fraction:
                assert stay.tolist() == [n for clip in sample.clips for n in clip.kept[number]]


@pytest.mark.parametrize("name", DRIVEN)
def test_counts_of_frames_follow_from_sizes(name: str) -> None:
    """Another seed, another clip of the same size: other tokens, the same counts."""
    made, model = family(name, FRAMES[name][0])
    counts = set()
    chosen = set()
    for seed in range(3):
        with sparsify(model, Random(0.4, per_frame=True, seed=seed)) as run, torch.no_grad():
            model(**made.prompts([CLIPS[1]]))
        counts.add(tuple(clip.kept for clip in run.report.samples[0].clips))
        chosen.add(tuple(run.kept[0][0].tolist()))
    assert len(counts) == 1 and len(chosen) == 3


@pytest.mark.parametrize(("name", "method"), in_turn(DRIVEN, METHODS[:5]), ids=name_of)
def test_invariants_frame_by_frame(name: str, method: Method) -> None:
    """Batch equals alone; without merging, the oracle; retain=1.0 is the dense model."""
    skip_pooled(name, method)
    made, model = family(name, FRAMES[name][0])
    every = [*CLIPS, *SAMPLES[:3]]
    with sparsify(model, method) as run:
        _, logits = generate(model, made.prompts(every))
        kept = run.kept
        for i, sample in enumerate(every):
            _, own = generate(model, made.prompts([sample]))
            torch.testing.assert_close(logits[i], own[0], atol=1e-3, rtol=1e-3)
            for stage, alone in zip(kept, run.kept, strict=False):
                assert torch.equal(stage[i], alone[0])
            if i == 1:
                layers, ours = run.layers, run.kept
    if not method.recycled_fraction:
        prompt = made.prompts([CLIPS[1]])
        visual = among(prompt["input_ids"][0], visual_ids(model.config)).nonzero()[:, 0]
        gone = {}
        for i in range(layers[0] + 1, len(model.get_decoder().layers)):
            stage = sum(i > layer for layer in layers) - 1
            missing = torch.ones(len(visual), dtype=torch.bool)
            missing[ours[stage][0]] = False
            gone[i] = visual[missing]
        with hidden(model, gone):
            torch.testing.assert_close(generate(model, prompt)[1][0], logits[1], atol=1e-3, rtol=1e-3)
    prompt = made.prompts(every)
    dense = generate(model, prompt)[1]
    with sparsify(model, method.name, retain=1.0, per_frame=True):
        assert torch.equal(generate(model, prompt)[1], dense)


def test_frames_that_are_not_known_are_said_to_be() -> None:
    """No family rule, no grid, one axis of positions: the clip competes as a whole, and the report says so."""
    made, model = family("exaone4_5", "grid_like")
    prompt = made.prompts([CLIPS[1]])
    with sparsify(model, "random", layers=(2,), retain=0.7, per_frame=True) as run:
        if not GRIDS_STAY:
            generate(model, prompt)
            assert "clip (frames not known): 48 x1 ->" in str(run.report)
            assert json.loads(run.report.to_json())["samples"][0]["clips"][1]["frames_known"] is False
        model(**prompt)
        assert "clip (3 frames): 16 x3 ->" in str(run.report)


# --- the published preset -----------------------------------------------------------------------------------------


def test_about_194_of_2048() -> None:
    """What the published count is made of: 136 tokens that the rank rule keeps and 58 merged ones."""
    assert 136 + recycled_counts(2048 - 136, SparseVLM.video().recycle)[1] == 194


@lru_cache(maxsize=1)
def eight_frames() -> Any:
    """A tiny Video-LLaVA for eight frames of 257 tokens, and the ids around them."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        VideoLlavaConfig,
        VideoLlavaForConditionalGeneration,
    )

    from tests.hf.families import base

    base.seed()
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"image_size": 64, "patch_size": 4, "projection_dim": 16}
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**tower),
        text_config=LlamaConfig(**{**base.TEXT, "max_position_embeddings": 4096, "num_attention_heads": 4}),
        image_token_index=4,
        video_token_index=5,
        vision_feature_layer=-1,
        attn_implementation="sdpa",
    )
    return base.finish(VideoLlavaForConditionalGeneration(config), 4, 5)


def asked(words: int, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(6, 30, (1, words), generator=g)
    ids = torch.cat((torch.tensor([[1]]), torch.full((1, 8 * 257), 5), text), 1)
    clip = torch.rand(1, 8, 3, 64, 64, generator=g) * 2 - 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": clip}


def test_the_published_preset_runs_on_video_llava() -> None:
    """Eight frames of 257 tokens, one stage after layer 1: as many are kept as the rank says, plus the merged."""
    model = eight_frames()
    long, short = asked(300, 0), asked(40, 1)
    with sparsify(model, SparseVLM.video(), trace=True) as run:
        tokens, logits = generate(model, long)
        (sample,), (step,) = run.report.samples, run.trace
        assert sample.visual_tokens == 2056 and run.layers == (1,)
        (clip,) = sample.clips
        assert clip.frames == (257,) * 8
        matrix = step.stage.attention.mean_attention()[0].double()[step.stage.rater[0]]
        rank = int(torch.linalg.matrix_rank(matrix, rtol=max(matrix.shape) * torch.finfo(torch.float32).eps))
        kept = len(run.kept[0][0])
        assert kept == rank == sum(clip.kept[0]) and 0.2 * 300 < rank < 300
        left = rank + recycled_counts(2056 - rank, 0.3)[1]
        assert sample.visual_per_layer == (2056, 2056, *[left] * 4)
        # In a left-padded batch with a shorter question it is what it is alone.
        pad = 260
        both = {
            "input_ids": torch.cat(
                (long["input_ids"], torch.nn.functional.pad(short["input_ids"], (pad, 0)))
            ),
            "attention_mask": torch.cat(
                (long["attention_mask"], torch.nn.functional.pad(short["attention_mask"], (pad, 0)))
            ),
            "pixel_values_videos": torch.cat((long["pixel_values_videos"], short["pixel_values_videos"])),
        }
        again, together = generate(model, both)
        assert torch.equal(again[0], tokens[0])
        torch.testing.assert_close(together[0], logits[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(together[1], generate(model, short)[1][0], atol=1e-3, rtol=1e-3)


# --- long clips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [SparseVLMPlus(0.1, per_frame=True), SparseVLM(0.1), SparseVLM.video()], ids=name_of
)
def test_long_clips(method: Method) -> None:
    """8,192 visual tokens: all that a prefill makes is linear in them, recycling included."""
    built = small_llama(max_position_embeddings=16384)
    largest, peak = {}, {}
    for visual in (2048, 8192):
        embeds = torch.randn(1, visual + 40, 32, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(1, visual + 40, dtype=torch.bool)
        mask[:, 4 : visual + 4] = True
        with sparsify(built, method, visual_mask=mask) as run, torch.no_grad(), Memory() as memory:
            built(inputs_embeds=embeds, logits_to_keep=1)
        assert run.report.samples[0].visual_tokens == visual and len(run.kept[-1][0]) < 0.3 * visual
        largest[visual], peak[visual] = memory.largest, memory.peak
    assert largest[8192] <= 4.3 * largest[2048] and peak[8192] <= 4.3 * peak[2048]
    assert largest[8192] < 8192 * 8192  # not a byte for every pair
