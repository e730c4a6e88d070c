"""Eyes for a language model, at a size that takes seconds: a run resumes, is exported, and answers as a stock LLaVA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.probing.answering import ANSWER_TOKENS, Examiner, some_examples
from benchmarks.probing.store import Store
from sparsesight import sparsify
from sparsesight.bundled import smol
from sparsesight.scenes.scenes import questions, render

from . import small_language_model
from .conftest import script


@pytest.fixture(scope="module")
def course() -> Any:
    script("train_smol")
    return script("training.smol.course")


def plan(course: Any) -> Any:
    stage = course.Stage
    return course.Plan(
        rank=4,
        shipped_rank=4,
        scenes=3,
        val_scenes=2,
        scored=2,
        questions=24,
        fit_scenes=3,
        fit_steps=2,
        replayed=2,
        stages=(
            stage("few", 4, 2, 12, 32, 1e-2, 0.5, thoughts=1.0, search=0.3, counting=1.0, replay_every=2),
            stage("whole", 1, 1, 4, 576, 1e-3, 1.0),
        ),
    )


def training(course: Any, folder: Path, start: Path | None = None) -> Any:
    base, run = course.Base(**small_language_model.parts()), course.Run(folder, every=1)
    return course.Training(plan(course), run, base, workers=1, seed=0, start=start)


@pytest.fixture(scope="module")
def whole(course: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through unbroken."""
    folder: Path = tmp_path_factory.mktemp("smol")
    training(course, folder).all()
    return folder


def test_a_run_resumes_to_the_same_weights(course: Any, whole: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["stage"] for line in lines] == ["projector", "few", "few", "few", "few", "whole"]
    stopped = training(course, tmp_path)
    log = stopped.run.log

    def stopping(line: dict[str, Any]) -> None:
        log(line)
        if line.get("step") == 2:
            raise KeyboardInterrupt

    stopped.run.log = stopping
    with pytest.raises(course.SparseSightError, match="no checkpoint yet"):
        stopped.restore()
    with pytest.raises(KeyboardInterrupt):
        stopped.all()
    halfway = training(course, tmp_path)
    assert halfway.restore()["step"] == 2  # those done when it was saved last
    halfway.export()
    first = load_file(tmp_path / "delta.safetensors")
    training(course, tmp_path).all()
    one, two = (load_file(folder / "delta.safetensors") for folder in (whole, tmp_path))
    assert one.keys() == two.keys() and any(name.endswith(".b") for name in one)
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert first.keys() == one.keys() and any(not torch.equal(first[name], one[name]) for name in one)
    assert max(one[name].abs().max() for name in one if name.endswith(".b")) > 0


@pytest.mark.slow
def test_a_run_goes_on_from_what_another_one_wrote(course: Any, whole: Path, tmp_path: Path) -> None:
    """Deltas and projector are where they were, and no projector is fitted again."""
    started = training(course, tmp_path, start=whole / "delta.safetensors")
    started.export()
    one, two = (load_file(folder / "delta.safetensors") for folder in (whole, tmp_path))
    for name in one:
        if name.startswith("projector."):
            assert torch.equal(one[name], two[name]), name
    factor = course.export.factor
    for name in {name.removesuffix(".a") for name in one if name.endswith(".a")}:
        ours, theirs = (factor(told, f"{name}.b", 0) @ factor(told, f"{name}.a", 1) for told in (one, two))
        torch.testing.assert_close(ours, theirs, atol=2e-2 * ours.abs().max().item(), rtol=0)
    started.all()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert "projector" not in {line["stage"] for line in lines}


def test_every_plan_takes_a_start_of_as_many_ranks_as_ship(
    course: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of them is lost, neither on the way in nor on the way out."""
    ranks, base = course.export.rank_of(smol.DELTA), course.Base(**small_language_model.parts())

    def begun(plan: Any, name: str, start: Path | None = None) -> Any:
        return course.Training(plan, course.Run(tmp_path / name, 1), base, 1, 0, start, text=False)

    first = begun(replace(plan(course), rank=ranks, shipped_rank=ranks), "first")
    for number, delta in enumerate(first.deltas.values()):
        torch.nn.init.normal_(delta.b, generator=torch.Generator().manual_seed(number))
    start = tmp_path / "delta.safetensors"
    course.export.save(start, first.reader.eyes, first.deltas, ranks)
    for name, one in script("training.smol.plan").PLANS.items():
        started = begun(one, name, start)
        assert started.plan.shipped_rank >= ranks, name
        assert ("instead of the plan's" in capsys.readouterr().out) is (one.rank < ranks), name
        for layer, delta in started.deltas.items():
            a, b = course.lowrank.truncated(delta, started.plan.shipped_rank)
            known = first.deltas[layer].b @ first.deltas[layer].a
            torch.testing.assert_close(b @ a, known, atol=3e-2 * known.abs().max().item(), rtol=0)


@pytest.mark.parametrize("holds", [None, "projector"])
def test_a_start_without_deltas_is_refused_before_any_work(
    course: Any, tmp_path: Path, holds: str | None
) -> None:
    start = tmp_path / "delta.safetensors"
    if holds:
        save_file({f"{holds}.weight": torch.zeros(1)}, start)
    with pytest.raises(course.SparseSightError, match=r"start=.* name the delta\.safetensors"):
        training(course, tmp_path / "run", start)
    assert not (tmp_path / "run" / "replay.pt").exists()


def test_kinds_are_asked_as_often_as_a_stage_says(course: Any, whole: Path) -> None:
    run = training(course, whole)
    run.load(run.plan.stages[0])
    data, rows = run.train["shapes"], np.arange(3)
    for kind in ("count", "compare"):
        stage = replace(plan(course).stages[0], questions=3, likelier={kind: 1e9})
        slots = run.draw(stage, data, rows, np.random.default_rng(0))
        there = [[one.kind for one in data.questions[row]].count(kind) for row in rows]
        asked = [
            [data.questions[row][slot].kind for slot in chosen].count(kind)
            for row, chosen in zip(rows, slots, strict=True)
        ]
        assert asked == [min(3, n) for n in there] and sum(asked)


def test_the_folder_is_a_stock_llava_that_sees_what_training_saw(course: Any, whole: Path) -> None:
    """The logits of a user's prompt are those of the packed questions, up to bfloat16."""
    model = AutoModelForImageTextToText.from_pretrained(whole / "model", dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(whole / "model")
    run = training(course, whole)
    for part in run.plan.stages:
        run.train_stage(1, part)  # finished: this only loads
    run.load(run.plan.stages[-1])
    rows, slots = np.array([1]), np.arange(6)[None]
    packed, _, _ = course.batch.questions(run.val["shapes"], rows, slots, np.arange(576)[None], course.DTYPE)
    with torch.no_grad():
        hidden = run.reader.read(run.val["shapes"], packed, rows, np.arange(576)[None]).last_hidden_state
        packed_logits = run.reader.logits(hidden, packed)
    scene = render(900_001)
    for slot, question in enumerate(questions(scene, 6)):
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(text=prompt, images=scene.image, return_tensors="pt")
        asked = run.val["shapes"].asked(1, slot)
        assert inputs["input_ids"][0, -asked.given :].tolist() == list(asked.ids[: asked.given])
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        first = packed_logits[packed.question == slot][0]
        assert torch.corrcoef(torch.stack([logits, first]))[0, 1] > 0.99


def test_the_folder_is_pruned_like_any_model(whole: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(whole / "model", dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(whole / "model")
    prompt = "<|im_start|>user\n<image>\nWhere is the red star?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=prompt, images=render(1).image, return_tensors="pt")
    with sparsify(model, retain=64, layers=[0]) as run, torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert [[len(row) for row in stage] for stage in run.kept] == [[64]]


def test_plain_text_prompts_get_the_system_message_and_pictures_none(whole: Path) -> None:
    processor = AutoProcessor.from_pretrained(whole / "model")
    picture = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a star?"}]}]
    plain = [{"role": "user", "content": "Is there a star?"}]
    with_picture = processor.apply_chat_template(picture, add_generation_prompt=True)
    assert with_picture == "<|im_start|>user\n<image>\nIs there a star?<|im_end|>\n<|im_start|>assistant\n"
    without = processor.apply_chat_template(plain, add_generation_prompt=True)
    assert without.startswith("<|im_start|>system\n")
    assert without.endswith("user\nIs there a star?<|im_end|>\n<|im_start|>assistant\n")


def test_what_helps_ends_before_the_last_third_of_the_steps(course: Any) -> None:
    for plan in script("training.smol.plan").PLANS.values():
        total = sum(stage.steps for stage in plan.stages)
        before = 0
        for stage in plan.stages:
            helps = (
                (stage.thoughts, stage.thoughts_until),
                (stage.search + stage.counting, stage.search_until),
            )
            for weight, until in helps:
                if weight:
                    assert before + until * stage.steps <= 2 / 3 * total
            before += stage.steps


def test_the_probes_ask_it_as_a_user_does(whole: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(whole / "model", dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(whole / "model")
    examiner = Examiner(model, processor, Store(tmp_path / "probes.json", {}), 4)
    asked = some_examples("test", 1)[:3]
    expected = []
    for example in asked:
        content = [{"type": "image"}, {"type": "text", "text": example.question.text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(text=inputs, images=example.image, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(new, skip_special_tokens=True).strip())
    assert examiner.own_pictures(asked).answers() == expected
