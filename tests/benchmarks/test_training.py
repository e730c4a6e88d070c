"""The training of the bundled model, at a size that takes seconds: every stage runs, resumes and is exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from sparsesight.bundled import MODEL_PATH
from sparsesight.scenes.scenes import questions, render


def plan(train_bundled: Any) -> Any:
    stage = train_bundled.Stage
    return train_bundled.Plan(
        tower_layers=1,
        tower_scenes=6,
        tower_steps=2,
        tower_batch=2,
        scenes=6,
        val_scenes=4,
        per_picture=3,
        stages=(
            stage("seed", 1, 3, 2, 24, 2e-3, 0.5, captions_first=1),
            stage("grown", 2, 2, 2, 30, 1e-3, 1.0),
            stage("whole", 2, 1, 1, 576, 1e-3, 1.0, captions=0.0),
        ),
    )


def trained(train_bundled: Any, folder: Path, stop_after: int = 0) -> Any:
    """A run in `folder`; `stop_after` so many steps of the seed stage it is interrupted, if not 0."""
    run = train_bundled.Run(folder, every=1)
    training = train_bundled.Training(plan(train_bundled), run, "cpu", workers=1, seed=0)
    if stop_after:
        log = run.log

        def stopping(line: dict[str, Any]) -> None:
            log(line)
            if line["stage"] == "seed" and line["step"] == stop_after:
                raise KeyboardInterrupt

        run.log = stopping
    training.all()
    return training.model


def test_a_run_goes_through_all_stages_and_resumes_to_the_same_weights(
    train_bundled: Any, tmp_path: Path
) -> None:
    whole = trained(train_bundled, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text("utf-8").splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines]
    expected = [("tower", 2), ("seed", 3), ("grown", 2), ("whole", 1)]
    assert steps == [(name, step) for name, count in expected for step in range(count)]
    assert len(whole.model.language_model.layers) == 2
    with pytest.raises(KeyboardInterrupt):
        trained(train_bundled, tmp_path / "parts", stop_after=1)
    resumed = trained(train_bundled, tmp_path / "parts")
    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_grown_layers_change_nothing_at_first(train_bundled: Any) -> None:
    blueprint = train_bundled.blueprint
    model = blueprint.build_model(width=64, layers=2, tower_layers=1, seed=0)
    grown = blueprint.grow(model, 4)
    ids = torch.randint(5, len(blueprint.VOCABULARY), (2, 9))
    assert torch.equal(model(input_ids=ids).logits, grown(input_ids=ids).logits)
    assert len(grown.model.language_model.layers) == 4


def test_telling_apart_changes_no_ranking_of_words_and_no_rater(train_bundled: Any) -> None:
    blueprint = train_bundled.blueprint
    model = blueprint.build_model(width=128, layers=1, tower_layers=1, seed=0)
    pixels = torch.from_numpy(train_bundled.make(5, 1, 1, 1).pixels)
    with torch.no_grad():
        before = train_bundled.tower.visual_tokens(model, pixels) @ model.get_input_embeddings().weight.T
        blueprint.tell_apart(model, length=20.0, scale=2.0)
        after = train_bundled.tower.visual_tokens(model, pixels) @ model.get_input_embeddings().weight.T
    assert torch.allclose(2 * after.log_softmax(-1).diff(), before.log_softmax(-1).diff(), atol=1e-3)


def test_questions_packed_together_are_answered_as_each_alone(train_bundled: Any) -> None:
    decoder, data = train_bundled.decoder, train_bundled.make(7, 2, 4, 1)
    model = train_bundled.blueprint.build_model(width=64, layers=2, tower_layers=1, seed=0)
    visual = torch.randn(2, 576, 64)
    rows, patches = np.arange(2), np.tile(np.arange(576), (2, 1))
    with torch.no_grad():
        packed = decoder.pack(data, data.questions, rows, np.tile(np.arange(4), (2, 1)), patches)
        together = decoder.logits(model, visual, packed)
        for row in range(2):
            for slot in range(4):
                one = decoder.pack(data, data.questions, rows[[row]], np.array([[slot]]), patches[[row]])
                alone = decoder.logits(model, visual[[row]], one)
                assert torch.allclose(together[packed.question == 4 * row + slot], alone, atol=1e-4)


def test_training_sees_the_tokens_that_the_processor_makes(train_bundled: Any) -> None:
    blueprint = train_bundled.blueprint
    processor, data = blueprint.build_processor(), train_bundled.make(11, 1, 3, 1)
    bundled = Tokenizer.from_file(str(MODEL_PATH / "tokenizer.json"))
    assert processor.tokenizer.backend_tokenizer.to_str() == bundled.to_str()

    scene = render(11)
    for slot, question in enumerate(questions(scene, 3)):
        prompt = f"USER: <image>\n{question.text} ASSISTANT:"
        inputs = processor(text=prompt, images=scene.image, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        given = int(data.questions.given[0, slot])
        assert ids[: len(train_bundled.decoder.PROMPT)] == train_bundled.decoder.PROMPT
        assert ids[len(ids) - given :] == data.questions.tokens[0, slot, :given].tolist()
        assert blueprint.WORD_ID["<unk>"] not in ids
        pixels = train_bundled.tower.normalise(torch.from_numpy(data.pixels))
        assert torch.allclose(inputs["pixel_values"], pixels, atol=1e-5)


def test_names_bring_their_objects_to_mind_and_numbers_themselves(train_bundled: Any) -> None:
    data, words = train_bundled.make(21, 2, 48, 1), train_bundled.blueprint.VOCABULARY
    seen = set()
    for row in range(2):
        scene = render(21 + row)
        for slot, question in enumerate(questions(scene, 48)):
            told = [words[i] for i in data.questions.tokens[row, slot]]
            thought = data.questions.thought[row, slot]
            brought = {
                place: {words[i] for i in data.about[row, thought[place]] if i}
                for place in np.flatnonzero(thought >= 0)
            }
            end = told.index("?")
            if question.kind == "count":
                assert set(brought) == set(range(told.index("are"), end + 2))
                assert all(about == {question.answer} for about in brought.values())
            elif brought:
                name = {told[end - 1], told[end - 2]} - {"the", "object"}
                assert name <= brought[end - 1]
                seen.add(question.kind)
            if question.kind == "neighbor":
                assert set(question.answer.split()) <= brought[end] & brought[end + 1]
            if question.kind == "compare":
                assert set(told[3:5]) <= brought[4] and len(brought) == 2
    assert seen == {"color", "shape", "size", "letter", "where", "exist", "neighbor", "compare"}


def test_search_is_measured_on_the_neighbours_patches_in_the_best_heads(train_bundled: Any) -> None:
    decoder, data = train_bundled.decoder, train_bundled.make(31, 2, 24, 1)
    model = train_bundled.blueprint.build_model(width=64, layers=2, tower_layers=1, seed=0)
    model.set_attn_implementation("eager")
    rows, patches = np.arange(2), np.tile(np.arange(0, 576, 3), (2, 1))
    slots = np.tile(np.arange(24), (2, 1))
    packed, visual = decoder.pack(data, data.questions, rows, slots, patches), torch.randn(2, 192, 64)
    with torch.no_grad():
        predicted, search = decoder.logits_and_search(model, visual, packed)
        assert torch.equal(predicted, decoder.logits(model, visual, packed))
        masses = []
        for row in range(2):
            scene = render(31 + row)
            for slot, question in enumerate(questions(scene, 24)):
                if question.kind == "neighbor":
                    one = decoder.pack(data, data.questions, rows[[row]], np.array([[slot]]), patches[[row]])
                    _, layers = decoder.run(model, visual[[row]], one, output_attentions=True)
                    mine = torch.from_numpy(scene.owner.ravel()[patches[row]] == question.objects[1])
                    ends = torch.cat(layers)[:, :, -5:-1, 3 : 3 + 192]  # ? ASSISTANT : blue, but not star
                    masses.append((ends * mine).sum(-1).flatten(0, 1))
    best = torch.cat(masses, dim=-1).clamp(min=1e-4).log().mean(-1).topk(4).values.mean()
    assert len(masses) > 3
    torch.testing.assert_close(search, -best)
