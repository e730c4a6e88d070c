"""A look is what the run did: stages, words, several pictures, clips, batches; what does not fit is refused."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparsesight import METHODS, Compose, SparseSightError, SparseVLM, SparseVLMPlus, sparsify, viz
from sparsesight.viz.clips import _shown
from sparsesight.viz.colours import KEPT
from sparsesight.viz.prompt_tokens import prompt_words, question_words
from tests.hf import tiny
from tests.viz.marked_pictures import CASES, Case, Eye, ground, inner, marked

VISUAL = (tiny.SIDE // tiny.PATCH) ** 2
TEXT = "USER: <image> what is the red star ? ASSISTANT:"


@cache
def model(family: str = "llava") -> Any:
    return tiny.model(family)


def looked(
    method: Any,
    images: list[Image.Image],
    texts: list[str],
    sample: int = 0,
    family: str = "llava",
    given: Any = None,
) -> tuple[viz.Look, Any]:
    processor = tiny.processor(family)
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    with sparsify(model(family), method) as run, torch.no_grad():
        model(family)(**inputs)
    image = images[0] if given is None else given
    return viz.look(run, image, processor, inputs, sample=sample), run


def test_stages_are_the_record_of_the_run() -> None:
    """The same objects: nothing is derived on the way to a picture."""
    look, run = looked(SparseVLMPlus(retain=0.4), [ground(64, 80)], [TEXT])
    assert len(look.stages) == 3 and look.visual == VISUAL
    for stage, kept, recorded in zip(look.stages, run.kept, run.choices(), strict=True):
        assert stage is recorded
        assert np.flatnonzero(stage.kept).tolist() == kept[0].tolist()


@pytest.mark.parametrize(
    "method",
    [
        SparseVLM(retain=0.4),
        METHODS["tome"](retain=0.4),
        Compose(METHODS["tome"](retain=0.6), SparseVLM(0.3, (1, 3))),
    ],
    ids=str,
)
def test_kept_and_merged_tokens_are_those_that_the_report_counts(method: Any) -> None:
    """Also where a later stage keeps, drops or merges what an earlier one merged."""
    look, run = looked(method, [ground(64, 80)], [TEXT])
    per_layer = run.report.samples[0].visual_per_layer
    for stage in look.stages:
        assert stage.kept.sum() + stage.centre.sum() == per_layer[stage.layer + 1]
        assert not (stage.kept & stage.merged).any() and (stage.merged | ~stage.centre).all()
    for earlier, later in zip(look.stages, look.stages[1:], strict=False):
        assert (earlier.kept | earlier.merged | ~(later.kept | later.merged)).all()  # what is gone is gone


def test_the_template_is_told_by_the_turns_and_by_special_tokens() -> None:
    processor = tiny.processor()
    prompt = tiny.inputs(processor, [("<s> USER : <image> what is red ? ASSISTANT :", [tiny.picture(1)])])
    for turns, template in (("ASSISTANT :", ["<s>", "ASSISTANT", ":"]), (None, ["<s>"])):
        how = {"turns": turns, "processor": processor} if turns else {}
        with torch.no_grad(), sparsify(model(), retain=20, **how) as run:
            model()(**prompt)
        words = prompt_words(run, processor, prompt, 0)
        assert [x.text.strip() for x in words if x.template and x.text.strip()] == template
        asked = "".join(x.text for x in question_words(words)).split()
        assert asked == ["what", "is", "red", "?", "ASSISTANT", ":"][: 4 if turns else None]
    # A run that was given no processor does not know the template; what draws it does.
    processor.chat_template = (
        "{% for m in messages %}{{ (m.role | upper) + ' : ' + m.content + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
    )
    words = prompt_words(run, processor, prompt, 0)
    assert "".join(x.text for x in question_words(words)).split() == ["what", "is", "red", "?"]


def test_a_run_draws_its_own_figure() -> None:
    pytest.importorskip("matplotlib")
    image, prompt = ground(64, 80), tiny.inputs(tiny.processor(), [(TEXT, [ground(64, 80)])])
    with torch.no_grad(), sparsify(model(), retain=20) as run:
        model()(**prompt)
    figure = run.figure(image, tiny.processor(), prompt, question="What?", answers={"sparse": "a"})
    assert [x.get_text() for x in figure.subfigs[0].texts][:2] == ["What?", "sparse: a"]
    with pytest.raises(SparseSightError, match="sample=1"):
        run.figure(image, tiny.processor(), prompt, sample=1)


def test_words_are_the_prompts_and_those_that_judged() -> None:
    look, run = looked(SparseVLMPlus(retain=0.4), [ground(64, 80)], [TEXT])
    assert sum(word.visual for word in look.words) == VISUAL
    assert "".join(word.text for word in look.words).split()[-1] == ":"
    rating = [word.text.strip() for word in look.words if word.rates]
    assert len(rating) == int(run.raters().sum()) and set(rating) <= {*TEXT.split(), "USER", "ASSISTANT", ":"}


def test_every_sample_of_a_padded_batch() -> None:
    images = [ground(64, 80), ground(90, 50)]
    texts = ["USER: <image> a star ?", TEXT]
    short, _ = looked(SparseVLMPlus(retain=0.4), images, texts, 0, given=images[0])
    long, _ = looked(SparseVLMPlus(retain=0.4), images, texts, 1, given=images[1])
    assert not any("<pad>" in word.text for word in short.words) and len(short.words) < len(long.words)
    alone, _ = looked(SparseVLMPlus(retain=0.4), images[1:], texts[1:])
    assert [s.kept.tolist() for s in long.stages] == [s.kept.tolist() for s in alone.stages]
    assert [word.rates for word in long.words] == [word.rates for word in alone.words]


def test_a_look_stays_when_the_model_goes_on() -> None:
    processor, image = tiny.processor(), ground(64, 80)
    inputs = processor(text=TEXT, images=image, return_tensors="pt")
    other = processor(text=TEXT.replace("red", "blue"), images=ground(50, 90), return_tensors="pt")
    with sparsify(model(), retain=0.4) as run, torch.no_grad():
        model()(**inputs)
        look = viz.look(run, image, processor, inputs)
        before = np.asarray(viz.overlay(look))
        model()(**other)
    assert np.array_equal(np.asarray(viz.overlay(look)), before)


def test_a_prefill_that_ran_dense() -> None:
    look, _ = looked(SparseVLMPlus(retain=1.0), [ground(64, 80)], [TEXT])
    assert look.stages == () and viz.overlay(look).width and viz.stages(look).width
    assert "<img" in look._repr_html_()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_two_pictures_of_different_sizes(family: str) -> None:
    images = [ground(64, 80), ground(120, 50)]
    text = "USER: <image> and a <image> red star ?"
    look, run = looked(SparseVLMPlus(retain=0.4), images, [text], family=family, given=images)
    assert [p.frames[0].size for p in look.pictures] == [(64, 80), (120, 50)]
    tokens = [t for p in look.pictures for v in p.views for t in (*v.tokens.flatten(), *v.ends)]
    assert sorted(tokens) == list(range(run.report.samples[0].visual_tokens))
    assert viz.stages(look).width
    with pytest.raises(
        SparseSightError, match=r"image: 1 picture of this size make .* visual tokens, but the prompt had"
    ):
        viz.look(run, images[0], tiny.processor(family))


@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_picture_may_be_an_array_or_a_file(kind: str, tmp_path: Any) -> None:
    image = ground(64, 80)
    image.save(tmp_path / "a.png")
    given = {"array": np.asarray(image), "file": tmp_path / "a.png"}[kind]
    look, _ = looked(SparseVLMPlus(retain=0.4), [image], [TEXT], given=given)
    plain, _ = looked(SparseVLMPlus(retain=0.4), [image], [TEXT])
    assert np.array_equal(np.asarray(viz.overlay(look)), np.asarray(viz.overlay(plain)))


def test_what_does_not_fit_is_refused() -> None:
    processor, image = tiny.processor(), ground(64, 80)
    inputs = processor(text=TEXT, images=image, return_tensors="pt")
    longer = processor(text=TEXT + " and how many small blue ring", images=image, return_tensors="pt")
    with sparsify(model(), retain=0.4) as run, torch.no_grad():
        with pytest.raises(SparseSightError, match="has not run yet"):
            viz.look(run, image, processor)
        model()(**inputs)
    with pytest.raises(SparseSightError, match="but the last prefill took"):
        viz.look(run, image, processor, longer)
    with pytest.raises(SparseSightError, match="no image_processor"):
        viz.look(run, image, SimpleNamespace())
    with pytest.raises(SparseSightError, match="image=int: give a picture"):
        viz.look(run, 3, processor)  # type: ignore[arg-type]
    with pytest.raises(SparseSightError, match="uint8 array"):
        viz.look(run, np.zeros((8, 8, 3)), processor)
    with pytest.raises(SparseSightError, match="sample=4"):
        viz.look(run, image, processor, sample=4)


# Clips


class Videos:
    """Stands in for video processors, all of which need torchvision: frames are stretched to a square."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, videos: Any, **kwargs: Any) -> dict[str, Any]:
        (clip,) = videos
        frames = [Image.fromarray(f).resize((self.side, self.side), Image.Resampling.BICUBIC) for f in clip]
        pixels = np.stack([np.asarray(frame) for frame in frames]).transpose(0, 3, 1, 2).astype(np.float32)
        return {"pixel_values_videos": pixels[None]}


@cache
def eye(name: str) -> Eye:
    known = [case for case in CASES if case.name == name]
    return Eye(known[0] if known else Case(name, lambda: None))


def clip(frames: int, size: tuple[int, int], mark: tuple[int, tuple[float, ...]] | None = None) -> np.ndarray:
    """Frames that are all alike, but for a mark in one."""
    stills = [ground(*size)] * frames
    if mark is not None:
        stills[mark[0]] = marked(stills[0], mark[1])  # type: ignore[arg-type]
    return np.stack([np.asarray(still) for still in stills])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_a_mark_in_a_frame_is_the_token_that_is_drawn_there(name: str) -> None:
    """Of families with grids; the processor is their own, but for the stand-in that patches frames as pictures."""
    size, frames = (72, 48), 4
    plain, (run, prompts) = eye(name).sees(videos=[clip(frames, size)])
    look = viz.look(run, clip(frames, size), eye(name).processor, prompts)
    (film,) = look.pictures
    assert (
        sum(view.size for view in film.views) == len(plain) and len(film.views) == 2
    )  # two frames share patches
    assert [view.name for view in film.views] == ["frames 1-2", "frames 3-4"]
    for view in film.views:
        cells = list(view.cells())
        for token, box in (cells[0], cells[len(cells) // 2 + 1], cells[-1]):
            features, _ = eye(name).sees(videos=[clip(frames, size, (view.frame, inner(box)))])
            assert int((features - plain).norm(dim=1).argmax()) == token


@pytest.mark.parametrize("name", ["llava_onevision", "llava_next_video", "video_llava"])
def test_frames_that_are_squares(name: str) -> None:
    """Tensors of these families come by hand, as their video processors need torchvision: their clips are cut to the
    size of a tile, so frames of that size are as a processor leaves them that stretches to it."""
    side, frames, seen = 32, 2 if name == "video_llava" else 4, eye(name)
    parts = vars(seen.processor) | {"video_processor": Videos(side)}
    plain, (run, prompts) = seen.sees(videos=[clip(frames, (side, side))])
    look = viz.look(run, clip(frames, (side, side)), SimpleNamespace(**parts), prompts)
    (film,) = look.pictures
    assert sum(view.size for view in film.views) == len(plain) and len(film.views) == frames
    for view in film.views[1:]:
        for token, box in list(view.cells())[1:3]:
            features, _ = seen.sees(videos=[clip(frames, (side, side), (view.frame, inner(box)))])
            assert int((features - plain).norm(dim=1).argmax()) == token
    with pytest.raises(SparseSightError, match="no video_processor"):
        viz.look(run, clip(frames, (side, side)), seen.processor, prompts)


def test_a_clip_that_is_a_row_of_pictures() -> None:
    seen, size = eye("internvl"), (64, 64)
    plain, (run, prompts) = seen.sees(videos=[clip(2, size)])
    look = viz.look(run, clip(2, size), seen.processor, prompts)
    assert sum(view.size for picture in look.pictures for view in picture.views) == len(plain)
    for number, picture in enumerate(look.pictures):
        token, box = list(picture.views[0].cells())[5]
        features, _ = seen.sees(videos=[clip(2, size, (number, inner(box)))])
        assert int((features - plain).norm(dim=1).argmax()) == token


@pytest.mark.parametrize(
    ("times", "frames", "together", "shown"),
    [
        (2, 4, 2, [[0, 1], [2, 3]]),
        (2, 3, 2, [[0, 1], [2]]),  # the last one is repeated
        (1, 1, 2, [[0]]),
        (3, 3, 1, [[0], [1], [2]]),
        (2, 8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),  # the processor took some
        (4, 3, 2, [[0], [0], [1], [2]]),
    ],
)
def test_frames_that_share_patches(times: int, frames: int, together: int, shown: list[list[int]]) -> None:
    assert [list(_shown(time, times, frames, together)) for time in range(times)] == shown


def test_clips_need_what_tells_their_grids() -> None:
    _, (run, prompts) = eye("qwen2_vl").sees(videos=[clip(4, (72, 48))])
    with pytest.raises(SparseSightError, match="video_grid_thw"):
        viz.look(run, clip(4, (72, 48)), eye("qwen2_vl").processor)
    with pytest.raises(SparseSightError, match="2 clips"):
        viz.look(run, [clip(4, (72, 48))] * 2, eye("qwen2_vl").processor, prompts)


def test_a_picture_and_a_clip() -> None:
    _, (run, prompts) = eye("qwen2_vl").sees(ground(60, 48), videos=[clip(4, (72, 48))])
    look = viz.look(run, [ground(60, 48), clip(4, (72, 48))], eye("qwen2_vl").processor, prompts)
    still, film = look.pictures
    assert len(still.frames) == 1 and len(film.frames) == 4
    assert min(int(view.tokens.min()) for view in film.views) == sum(view.size for view in still.views)
    drawn = np.asarray(viz.overlay(look))
    assert (drawn == KEPT).all(-1).any()
