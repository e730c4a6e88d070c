"""Training on mixed scenes, at a size that takes seconds: pairs, answers of several tokens, a tower of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from sparsesight import bundled
from sparsesight.errors import SparseSightError
from sparsesight.scenes.mixed.dataset import SPLITS, picture_of
from sparsesight.scenes.mixed.packages import check_installed
from sparsesight.scenes.mixed.picture import Element
from sparsesight.scenes.scenes import render

from . import small_language_model
from .conftest import script


@pytest.fixture(scope="module")
def course() -> Any:
    script("train_smol")
    return script("training.smol.course")


@pytest.fixture(scope="module")
def prompts(course: Any) -> Any:
    return script("training.smol.prompts").Prompts(small_language_model.tokenizer())


of_a_run = pytest.mark.slow  # test_train_smol.py has a run of the same course
SHARES = {"shapes": 1, "mixed": 2, "pairs": 2}


@pytest.fixture(scope="module")
def run(course: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on mixed scenes that went through."""
    try:
        check_installed()
    except SparseSightError as error:
        pytest.skip(str(error))
    plan = course.Plan(
        rank=4,
        shipped_rank=4,
        scenes=3,
        val_scenes=5,
        scored=2,
        questions=9,
        replayed=2,
        mixed=10,
        seen=10,
        eyes_steps=1,
        eyes_pictures=(1, 2, 1),
        eyes_shapes=2,
        eyes_inner=640,
        fit_scenes=3,
        fit_steps=2,
        collages=3,
        collage_lines=50,
        stages=(
            course.Stage("told", 2, 2, 12, 32, 1e-2, 0.5, shares=SHARES, ideal=True),
            course.Stage("few", 2, 2, 12, 32, 1e-2, 0.5, shares=SHARES),
            course.Stage("whole", 1, 1, 4, 576, 1e-3, 1.0, shares={"mixed": 1, "pairs": 1}),
        ),
    )
    base = course.Base(**small_language_model.parts())
    folder: Path = tmp_path_factory.mktemp("mixed")
    with pytest.raises(SparseSightError, match="name deltas"):
        course.Training(plan, course.Run(folder, every=1), base, workers=1, seed=0)
    reader = course.Reader(course.Base(**small_language_model.parts()), 4, seed=0)
    reader.attach()
    course.export.save(folder / "start.safetensors", reader.eyes, reader.deltas, 4)
    start = folder / "start.safetensors"
    training = course.Training(plan, course.Run(folder, every=1), base, workers=1, seed=0, start=start)
    training.all()
    return training


@of_a_run
def test_two_pictures_are_read_as_a_user_prompt_shows_them(course: Any, run: Any) -> None:
    folder = run.run.folder / "model"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(folder)
    data = run.val["pairs"]
    assert data.span == 2 * 576 + 1 and len(data) == 1
    visible, slots = np.arange(data.span)[None], [[0, 1, 2]]
    packed, _, _ = course.batch.questions(data, np.array([0]), slots, visible, course.DTYPE)
    with torch.no_grad():
        hidden = run.reader.read(data, packed, np.array([0]), visible).last_hidden_state
        seen = run.reader.logits(hidden, packed)
    picture = picture_of(SPLITS["val"], 4)
    for slot in slots[0]:
        text = data.questions[0][slot].text
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(text=prompt, images=list(picture.images), return_tensors="pt")
        asked = data.asked(0, slot)
        assert inputs["input_ids"].shape[1] == len(run.prompts.opening) + data.span + asked.given
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        first = seen[packed.question == slot][0]
        assert torch.corrcoef(torch.stack([logits, first]))[0, 1] > 0.99


@of_a_run
def test_its_own_tower_is_shipped_and_assembled(run: Any) -> None:
    told = load_file(run.run.folder / "delta.safetensors")
    weights = load_file(run.run.folder / "model" / "model.safetensors")
    trained = run.reader.eyes.tower.state_dict()
    before = bundled.load()[0].model.vision_tower.state_dict()
    assert any(trained[name].shape != before[name].shape for name in before)  # it was widened
    inner = AutoConfig.from_pretrained(run.run.folder / "model").vision_config.intermediate_size
    assert inner == run.plan.eyes_inner
    for name, weight in trained.items():
        assert torch.equal(told[f"tower.{name}"], weight.bfloat16())
        (found,) = (kept for key, kept in weights.items() if key.endswith(f"vision_tower.{name}"))
        assert torch.equal(found, weight.bfloat16())


@of_a_run
def test_pictures_without_many_questions_are_asked_those_they_have(course: Any, run: Any) -> None:
    first, *others = run.train["mixed"].questions
    data = replace(run.train["mixed"], questions=[first[:3], *others])
    stage = course.Stage("few", 1, 1, 8, 32, 1e-3, 1.0)
    slots = run.draw(stage, data, np.arange(len(data)), np.random.default_rng(0))
    assert sorted(slots[0]) == [0, 1, 2]
    assert [len(chosen) for chosen in slots[1:]] == [min(8, len(asked)) for asked in others]


def test_answers_of_several_words_are_tokenised_as_they_are_said(prompts: Any) -> None:
    ids = prompts.answer("bottom right")
    assert ids == [prompts.word("bottom"), prompts.word("right")]
    said = prompts.answer("46 4 59 17")
    assert prompts.tokenizer.decode(said) == "46<unk>4<unk>59<unk>17"  # this vocabulary has no blank
    assert prompts.answer("3") == [prompts.word("3")]


def test_a_number_on_a_patch_keeps_the_order_of_its_digits(course: Any, prompts: Any) -> None:
    mixed = course.naming.mixed
    own = torch.randn(len(prompts.tokenizer), 96)
    one, two = (mixed.summed(mixed.pieces([(text, 1.0)], prompts), own) for text in ("12", "21"))
    assert not torch.allclose(one, two)


def test_patches_say_what_is_written_and_where(course: Any) -> None:
    element = Element("number", "47", (200, 20, 230, 40), cell=(2, 1), text="47", value=47)
    assert dict(course.naming.mixed.spoken(element)) == {
        "47": 1.5,
        "right": 0.5,
        "top": 0.5,
        "third": 0.7,
        "two": 0.7,
    }
    bar = Element("bar", "pool", (60, 100, 90, 292), color="red", value=35)
    place = {"left": 0.5, "bottom": 0.5, "first": 0.7, "one": 0.7}
    assert dict(course.naming.mixed.spoken(bar)) == {"35": 1.0, "bar": 0.5, "red": 1.0, **place}


def test_a_widened_tower_sees_what_it_saw(course: Any) -> None:
    tower = bundled.load()[0].model.vision_tower
    pixels = torch.randn(1, 3, 336, 336)
    with torch.no_grad():
        seen, wider = (
            one(pixel_values=pixels).last_hidden_state for one in (tower, course.eyes.widened(tower, 640))
        )
    assert torch.allclose(seen, wider, atol=1e-4)


@of_a_run
def test_patches_of_collages_are_labelled_with_what_they_show(course: Any, run: Any) -> None:
    collage = course.collage
    pixels, told = collage.stored(run.run.folder, 3, 50, 1)
    assert pixels.shape == (3, 3, 336, 336) and told.shape == (3, 576, len(collage.FIELDS))
    for column, classes in enumerate(collage.FIELDS.values()):
        known = told[..., column][told[..., column] != collage.UNKNOWN]
        assert ((known >= 0) & (known < classes)).all()
    element = Element("number", "47", (200, 20, 230, 40), cell=(2, 1), text="47", value=47)
    spelled = collage.classes(element)[-collage.SPELLED :]
    ended = [len(collage.SIGNS)] * 5
    assert spelled == [collage.SIGNS.index("4"), collage.SIGNS.index("7"), *ended]


@of_a_run
def test_ideal_patches_say_the_words_of_their_element(course: Any, run: Any) -> None:
    own = course.projector.own_part(run.reader.table.float())
    data = course.naming.mixed.ideal(run.album.stored("mixed", "val"), run.prompts, 1, own)
    torch.manual_seed(0)
    visible = np.arange(576)[None]
    shown = data.seen(np.array([0]), visible, None)[0]
    right = data.ideal[0].float()[torch.from_numpy(data.owner[0].astype(int))]
    assert torch.nn.functional.cosine_similarity(shown, right).min() > 0.8


def test_factors_in_8_bits_are_near_what_was_trained(course: Any) -> None:
    weight = torch.randn(4, 96)
    told, scale = course.export.in_8_bits(weight, 1)
    again = course.export.factor({"x": told, "x.scale": scale}, "x", 1)
    assert told.dtype == torch.int8 and (again - weight).abs().max() < weight.abs().max() / 127


@of_a_run
def test_a_run_goes_on_from_a_tower_of_its_own(course: Any, run: Any, tmp_path: Path) -> None:
    start, base = run.run.folder / "delta.safetensors", course.Base(**small_language_model.parts())
    again = course.Training(run.plan, course.Run(tmp_path, every=1), base, workers=1, seed=0, start=start)
    assert again.reader.own_tower and not again.eyes_ready  # the tower of this plan is still to be trained
    for name, weight in run.reader.eyes.tower.state_dict().items():
        assert torch.equal(again.reader.eyes.tower.state_dict()[name], weight.bfloat16().float())


def test_a_mixed_question_seeks_what_it_names_and_what_answers_it(course: Any, run: Any) -> None:
    data = run.train["mixed"]
    found = set()
    for row in range(len(data)):
        for slot, question in enumerate(data.questions[row]):
            asked, (picture, kind) = data.asked(row, slot), question.kind.split()
            if picture != "icons":
                continue
            told = {place: them for place, them, _ in asked.seeks}
            assert all(set(them) <= set(question.objects) for them in told.values())
            if kind in ("color", "where", "name"):
                assert told[asked.given - 1] == question.objects
            if kind == "neighbor":  # the thing named, then the one beside it, which the answer names
                assert told[asked.given - 1] == question.objects[1:2]
                assert data.names[row][question.objects[1]] == question.answer
            if kind == "describe":  # one after the other, each from the token before its name
                assert [them for _, them, _ in sorted(asked.seeks)] == [(i,) for i in question.objects]
            found.add(kind)
    assert {"name", "neighbor", "describe"} <= found


def test_patches_of_cards_have_their_letter(course: Any) -> None:
    items = render(5), render(7)
    owner = np.stack([scene.owner.ravel() for scene in items])
    told = course.naming.lettered(owner, [scene.objects for scene in items])
    known = 0
    for row, scene in enumerate(items):
        for index in range(-1, len(scene.objects)):
            letter = scene.objects[index].letter if index >= 0 else None
            label = course.naming.LETTERS.index(letter) if letter else course.naming.NONE
            assert set(told[row][torch.from_numpy(owner[row] == index)].tolist()) <= {label}
            known += bool(letter)
    assert known


def test_a_projector_learns_which_name_is_likeliest(course: Any) -> None:
    torch.manual_seed(0)
    names = torch.nn.functional.normalize(torch.randn(5, 96), dim=-1)
    seen, name = torch.randn(5, 12).repeat(40, 1), torch.arange(5).repeat(40)
    of = torch.nn.Module()
    of.linear_1, of.linear_2 = torch.nn.Linear(12, 32), torch.nn.Linear(32, 96)
    of.forward = lambda x: of.linear_2(torch.relu(of.linear_1(x)))
    scenes = seen.half(), 2 * names[name].half(), name
    cards = torch.where(name < 3, name, course.naming.NONE)  # the letters are the first three of the names
    shapes = *scenes[:2], cards
    left = course.naming.fit(of, scenes, (seen.half(), name), shapes, names, names[:3], 60, 0)
    assert ((of(seen[:5]) @ names.T).argmax(-1) == name[:5]).all() and left["names"] < 1
    assert 0 < left["letters"] < 1
    assert not of.linear_1.weight.requires_grad
