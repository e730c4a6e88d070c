"""Questions and patches in the space of a text tower, as CDPruner was published, against computations by hand."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import (
    CDPruner,
    Compose,
    SparseSightError,
    SparseVLMPlus,
    TextTower,
    UnsupportedModelError,
    questions,
    sparsify,
)
from sparsesight.method_names import DEFAULT
from tests.hf import tiny
from tests.hf.threads import wrong_in_threads
from tests.hf.vision.text_towers import (
    ASKED,
    METHOD,
    WINDOW,
    built,
    by_hand,
    clip_of,
    relevance,
    text_tokenizer,
)


@pytest.mark.parametrize("layer", [-1, -2])
def test_cosines_of_patches_and_question(layer: int) -> None:
    """Of one picture and of two, from the layer that the language model is given."""
    model, clip = built(layer=layer)
    tower = TextTower.from_clip(clip, text_tokenizer())
    for text, pictures in (tiny.SAMPLES[0], tiny.SAMPLES[1]):
        prompt = tiny.inputs(tiny.processor(), [(text, pictures)])
        with sparsify(model, METHOD, text_tower=tower, trace=True) as run, questions(model, ASKED[0]):
            model.generate(**prompt, max_new_tokens=1)
        mine = by_hand(model, clip, prompt["pixel_values"], ASKED[0])
        torch.testing.assert_close(relevance(run)[0], mine)
        assert mine.std() > 0.05


def test_what_is_kept_by_determinants() -> None:
    """The published choice, step by step: relevance, kernel, and the token that enlarges its determinant most."""
    model, clip = built(layer=-2)
    prompt = tiny.inputs(tiny.processor(), [tiny.SAMPLES[0]])
    method = CDPruner.published(9)
    with (
        sparsify(model, method, text_tower=TextTower.from_clip(clip, text_tokenizer())) as run,
        torch.no_grad(),
    ):
        with questions(model, ASKED[0]):
            model(**prompt)
        features = model.get_image_features(prompt["pixel_values"]).pooler_output[0].double().numpy()
    r = -by_hand(model, clip, prompt["pixel_values"], ASKED[0]).double().numpy()
    r = (r - r.min()) / (r.max() - r.min())
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kernel = r[:, None] * (unit @ unit.T) * r
    chosen: list[int] = []
    for _ in range(9):
        free = [i for i in range(len(r)) if i not in chosen]
        chosen.append(max(free, key=lambda i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])))
    assert run.kept[0][0].tolist() == sorted(chosen)
    assert run.report.samples[0].visual_per_layer == (9,) * tiny.LAYERS


@pytest.mark.parametrize("said", [True, False], ids=["questions", "prompt"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_batch_gives_each_sample_what_it_gets_alone(family: str, said: bool) -> None:
    """One, two, no and one picture, with questions that are told or read off the prompts."""
    model, clip = built(family)
    processor = tiny.processor(family)
    tower = TextTower.from_clip(clip, text_tokenizer(), None if said else processor.tokenizer)

    def generate(which: list[int]) -> Tensor:
        prompt = tiny.inputs(processor, [tiny.SAMPLES[i] for i in which])
        asked = [ASKED[i] for i in which] if said else None
        how = {
            "max_new_tokens": 3,
            "do_sample": False,
            "return_dict_in_generate": True,
            "output_logits": True,
        }
        if asked is None:
            return torch.stack(model.generate(**prompt, **how).logits, 1)
        with questions(model, asked):
            return torch.stack(model.generate(**prompt, **how).logits, 1)

    with sparsify(model, METHOD, text_tower=tower, trace=True) as run:
        logits, kept, stage = generate([0, 1, 2, 3]), run.kept[0], run.trace[0].stage
        for i in (0, 1, 3):
            own = generate([i])
            torch.testing.assert_close(own[0], logits[i], atol=3e-4, rtol=1e-4)
            assert torch.equal(run.kept[0][0], kept[i]) and len(kept[i]) == 20
            torch.testing.assert_close(stage.question_relevance[i][stage.visual[i]], relevance(run)[0])


def test_a_question_decides() -> None:
    """Another question keeps other tokens, and the one that is said counts, not the one of the prompt."""
    model, clip = built()
    processor = tiny.processor()
    tower = TextTower.from_clip(clip, text_tokenizer(), processor.tokenizer)
    prompt = tiny.inputs(processor, [tiny.SAMPLES[0]])
    kept = []
    with sparsify(model, METHOD, text_tower=tower) as run, torch.no_grad():
        for text in (None, "what is the red star ? ASSISTANT :", "left of a small ring"):
            if text is None:
                model(**prompt)
            else:
                with questions(model, "how many"), questions(model, [text]):
                    model(**prompt)
            kept.append(run.kept[0][0].tolist())
    assert kept[0] == kept[1] != kept[2]


def test_a_token_without_a_patch_has_no_relevance() -> None:
    """LLaVA-NeXT ends rows of patches with a token of its own."""
    model, clip = built("llava_next")
    tower = TextTower.from_clip(clip, text_tokenizer())
    prompt = tiny.inputs(tiny.processor("llava_next"), [tiny.SAMPLES[3]])
    with (
        sparsify(model, METHOD, text_tower=tower, trace=True) as run,
        torch.no_grad(),
        questions(model, ASKED[3]),
    ):
        model(**prompt)
    lines = relevance(run)[0].isinf()
    assert 0 < lines.sum() < len(lines) / 4
    assert not lines[run.kept[0][0]].any()
    assert relevance(run)[0][~lines].abs().max() <= 1


def test_beams_repeat_the_question() -> None:
    model, clip = built()
    tower = TextTower.from_clip(clip, text_tokenizer())
    prompt = tiny.inputs(tiny.processor(), [tiny.SAMPLES[0], tiny.SAMPLES[3]])
    with sparsify(model, METHOD, text_tower=tower) as run, questions(model, [ASKED[0], ASKED[3]]):
        model.generate(**prompt, max_new_tokens=2, do_sample=False)
        each = run.kept[0]
        model.generate(**prompt, max_new_tokens=2, do_sample=False, num_beams=3)
        for i, kept in enumerate(run.kept[0]):
            assert torch.equal(kept, each[i // 3])
        model.generate(**prompt, max_new_tokens=2, do_sample=False, use_cache=False)
        assert all(map(torch.equal, run.kept[0], each))


def test_a_long_question_is_read_in_parts() -> None:
    """Each of which begins and ends as a question does; padding changes nothing."""
    _, clip = built()
    tokenizer = text_tokenizer()
    tower = TextTower.from_clip(clip, tokenizer)
    words = ASKED[1].split()
    assert WINDOW - 2 < len(words) < 2 * (WINDOW - 2)
    whole, first, second = tower.texts(
        [" ".join(x) for x in (words, words[: WINDOW - 2], words[WINDOW - 2 :])]
    )
    torch.testing.assert_close(whole, (first + second) / 2)
    torch.testing.assert_close(first.norm(), torch.tensor(1.0))
    torch.testing.assert_close(tower.texts([" ".join(words[WINDOW - 2 :])])[0], second)
    assert tower.texts([""]).isfinite().all()


def test_the_rest_of_clip_need_not_stay() -> None:
    model, clip = built()
    layer = weakref.ref(clip.vision_model.encoder.layers[0])
    tower = TextTower.from_clip(clip, text_tokenizer())
    del clip
    gc.collect()
    assert layer() is None and tower.width == model.config.vision_config.hidden_size


def test_composed_with_a_method_inside_the_language_model() -> None:
    model, clip = built()
    tower = TextTower.from_clip(clip, text_tokenizer())
    prompt = tiny.inputs(tiny.processor(), [tiny.SAMPLES[1]])
    both = Compose(CDPruner(40, guide="text-tower", opposite=True), SparseVLMPlus(0.5))
    with sparsify(model, both, text_tower=tower) as run, questions(model, ASKED[1]), torch.no_grad():
        model(**prompt)
        assert len(run.kept[0][0]) == 40 and len(run.kept) == 4


def test_two_threads_ask_their_own() -> None:
    model, clip = built()
    tower = TextTower.from_clip(clip, text_tokenizer())
    prompts = [tiny.inputs(tiny.processor(), [tiny.SAMPLES[i]]) for i in (0, 3)]

    def answer(i: int) -> Tensor:
        with questions(model, ASKED[i]), torch.no_grad():
            return model(**prompts[i]).logits

    with sparsify(model, METHOD, text_tower=tower):
        alone = [answer(i) for i in (0, 1)]
        assert not wrong_in_threads((0, 1), lambda i: torch.equal(answer(i), alone[i]), 5, 1e-5)


def test_the_model_is_what_it_was() -> None:
    model, clip = built()
    prompt = tiny.inputs(tiny.processor(), [tiny.SAMPLES[0]])
    with torch.no_grad():
        before = model(**prompt).logits
        tower = TextTower.from_clip(clip, text_tokenizer())
        with sparsify(model, METHOD, text_tower=tower), questions(model, ASKED[0]):
            assert not torch.equal(model(**prompt).logits, before)
        with questions(model, ASKED[0]):
            assert torch.equal(model(**prompt).logits, before)


# -- what is refused -----------------------------------------------------------------------------------------------


def test_without_a_text_tower() -> None:
    model, clip = built()
    with pytest.raises(
        SparseSightError, match=r"method=cdpruner\(.*no text tower: give .* text_tower=TextTower"
    ):
        sparsify(model, CDPruner.published())
    with pytest.raises(SparseSightError, match=f"text_tower: method={DEFAULT}.* reads none; leave it out"):
        sparsify(model, text_tower=TextTower.from_clip(clip, text_tokenizer()))


def test_a_tower_of_another_model() -> None:
    model, _ = built()
    wide = clip_of(model, hidden_size=64)
    with pytest.raises(
        UnsupportedModelError, match=r"width 64, but that of model=Llava.* has 32: give the CLIP"
    ):
        sparsify(model, METHOD, text_tower=TextTower.from_clip(wide, text_tokenizer()))
    with pytest.raises(
        SparseSightError, match=r"clip=LlavaForConditionalGeneration has no text_model: give a CLIP"
    ):
        TextTower.from_clip(model, text_tokenizer())


def test_no_question_or_too_many() -> None:
    model, clip = built()
    prompt = tiny.inputs(tiny.processor(), [tiny.SAMPLES[0], tiny.SAMPLES[3]])
    with sparsify(model, METHOD, text_tower=TextTower.from_clip(clip, text_tokenizer())):
        with pytest.raises(SparseSightError, match=r"was given no question; put `with questions\(model"):
            model.generate(**prompt, max_new_tokens=2)
        for asked, how in ((ASKED[:1], {}), (ASKED[:3], {}), (ASKED[:1], {"num_beams": 2})):
            with (
                questions(model, asked),
                pytest.raises(SparseSightError, match=f"{len(asked)} for 2 samples"),
            ):
                model.generate(**prompt, max_new_tokens=2, **how)
        with questions(model, ASKED[:1]), pytest.raises(SparseSightError, match="1 for 2 samples"):
            model(**prompt)
        with pytest.raises(SparseSightError, match="questions: 3 is not a string"), questions(model, [3]):  # type: ignore[list-item]
            pass


def test_a_checkpoint(tmp_path: Path) -> None:
    """CLIP's own file, and the file of something else."""
    model, clip = built()
    clip.save_pretrained(tmp_path / "clip")
    text_tokenizer().save_pretrained(tmp_path / "clip")
    tower = TextTower.from_pretrained(str(tmp_path / "clip"), tiny.processor().tokenizer)
    torch.testing.assert_close(
        tower.texts(ASKED[:1]), TextTower.from_clip(clip, text_tokenizer()).texts(ASKED[:1])
    )
    assert tower.decode is not None
    assert tower.decode(tiny.tokenizer()("<s> what is a star </s>").input_ids) == "what is a star"
    model.save_pretrained(tmp_path / "llava")
    with pytest.raises(SparseSightError, match=r"is a 'llava': give the CLIP that the model's vision tower"):
        TextTower.from_pretrained(str(tmp_path / "llava"))
