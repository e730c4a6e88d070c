"""``sparsesight ask``: what it prints, saves and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sparsesight
from sparsesight import bundled, compare, viz
from sparsesight.commands.rendering import show
from sparsesight.hf import loading
from tests.commands.command_line import (
    PICTURE,
    QUESTION,
    ask,
    asked,
    independent,
    plain_surroundings,  # noqa: F401
    refused,
)

# Answers


@pytest.mark.parametrize("method", ["sparsevlm", "sparsevlm+"])
def test_answers_and_kept_tokens_are_those_of_the_library(method: str) -> None:
    found = asked("--retain", "150,80,40", "--layers", "0,2,4", "--method", method)
    dense, _ = independent(QUESTION)
    sparse, kept = independent(QUESTION, method, retain=(150, 80, 40), layers=(0, 2, 4))
    assert found["dense"]["answer"] == dense
    assert found["sparse"]["answer"] == sparse
    assert found["kept"] == kept
    assert [len(stage) for stage in kept] == [150, 80, 40] or method == "sparsevlm"  # merged ones compete
    assert found["agree"] is (dense == sparse)


def test_the_json_object() -> None:
    found = asked("--method", "sparsevlm", "--retain", "33%")
    assert list(found) == [
        *(
            "question",
            "image",
            "model",
            "method",
            "dense",
            "sparse",
            "agree",
            "report",
            "kept",
            "merged",
            "saved",
        )
    ]
    assert found["question"] == QUESTION
    assert found["image"] == str(PICTURE)
    assert found["model"] == "bundled"
    assert found["method"]["retain"] == 0.33
    assert found["saved"] is None
    for side in ("dense", "sparse"):
        assert set(found[side]) == {"answer", "tokens"}
        assert 1 <= found[side]["tokens"] <= 4
    report = found["report"]
    assert report["prefill_ms"] is None  # one run tells nothing about time
    (sample,) = report["samples"]
    assert sample["visual_tokens"] == 576
    assert abs(sample["equal_tokens"] - 190) <= 1
    after = [sample["visual_per_layer"][layer + 1] for layer in report["layers"]]
    assert [len(kept) + merged for kept, merged in zip(found["kept"], found["merged"], strict=True)] == after
    assert all(found["merged"])  # sparsevlm recycles


def test_max_new_tokens_is_a_limit() -> None:
    assert asked("--max-new-tokens", "1")["dense"]["tokens"] == 1


def test_a_lone_question_is_about_the_bundled_picture() -> None:
    found = asked("What color is the cross?")
    assert found["image"] == str(PICTURE)
    assert found["question"] == "What color is the cross?"


def test_another_picture_is_looked_at() -> None:
    other = bundled.pictures()[1]
    entry = bundled.picture_questions()[other.name][0]
    found = asked(str(other), entry["question"])
    assert found["image"] == str(other)
    assert found["dense"]["answer"] == entry["answer"]


def test_what_is_printed() -> None:
    result = ask("--method", "sparsevlm+", "--retain", "150,80,40", "--layers", "0,2,4")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    dense, _ = independent(QUESTION)
    sparse, kept = independent(QUESTION, "sparsevlm+", retain=(150, 80, 40), layers=(0, 2, 4))
    assert any(line.split() == ["dense", *dense.split()] for line in lines)
    verdict = "(the same answer)" if dense == sparse else "(a different answer)"
    assert any(line.startswith("sparse") and sparse in line and verdict in line for line in lines)
    assert QUESTION in result.stdout
    same = "same" if dense == sparse else "different"
    saved = r"[\d.]+x less prefill arithmetic, \d+ % less KV cache; "
    saved += r"on average \d+ of 576 visual tokens leave a layer, \d+ enter it"
    assert re.match(f"{same} answer; {saved}", " ".join(result.stdout.split()))
    assert "a character is two patches" in result.stdout
    for quantity in ("visual tokens per layer", "prefill multiply-adds", "KV cache bytes"):
        (row,) = [line for line in lines if line.strip().startswith(f"{quantity} ") and "(" not in line]
        assert len(row.removeprefix(f" {quantity}").split()) >= 2  # dense and sparse
    assert drawn("sparsevlm+", retain=(150, 80, 40), layers=(0, 2, 4)) in result.stdout
    assert len(kept) == 3


@pytest.mark.parametrize("method", ["tome", "pooling"])
def test_where_all_is_merged_there_is_no_picture_of_what_was_kept(method: str) -> None:
    result = ask("--method", method, "--retain", "64")
    assert result.exit_code == 0, result.stderr
    assert f"{method}, retain 64, before the first layer" in result.stdout
    assert "no token was kept as it is: 64 merged ones stand for the 576" in result.stdout
    assert "kept after" not in result.stdout and max(map(len, result.stdout.splitlines())) <= 80


def test_before_the_first_layer() -> None:
    result = ask("--method", "uniform", "--retain", "64")
    assert drawn("uniform", retain=64) in result.stdout
    assert "before layer 0: 64 of 576" in result.stdout


def test_keeping_everything_agrees_and_says_so() -> None:
    result = ask("--retain", "1.0")
    assert "(the same answer)" in result.stdout
    assert "ran dense" in result.stdout
    assert "kept after" not in result.stdout


def test_what_a_model_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = loading.load_model()
    inputs = compare.prepare(loaded, Image.open(PICTURE), QUESTION)
    result = compare.compare(loaded, inputs, sparsesight.SparseVLMPlus(), 1)
    result = replace(
        result,
        dense=replace(result.dense, answer="\x1b[2J [bold]loud[/bold] [/]"),
        sparse=replace(result.sparse, answer=""),
    )
    show(replace(result, why_not="no grid"), picture="a.png", question="[red]?", model="m")
    printed = capsys.readouterr().out
    assert "\x1b[2J" not in printed
    assert "[bold]loud[/bold] [/]" in printed and "[red]?" in printed
    assert "(nothing)  (a different answer)" in printed
    assert printed.rstrip().endswith("no grid")


@pytest.mark.parametrize("name", ["https://a.b/c.jpg", "file:///c.jpg", "s3://a/b.png"])
def test_urls_are_not_read(name: str) -> None:
    assert "is a URL, which is not read: download the picture" in refused(ask(name, "What is this?"))


def test_a_model_from_a_variable_and_one_that_cannot_be_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("found out too late"))
    monkeypatch.setattr(compare, "prepare", lambda *_: pytest.fail("found out too late"))
    assert "model '/no/such' does not exist" in refused(ask(SPARSESIGHT_MODEL="/no/such"))
    assert "model 'a/b/c' does not exist" in refused(ask("--model", "a/b/c", SPARSESIGHT_MODEL="/no/such"))


def test_the_model_is_left_as_it_was() -> None:
    loaded = loading.load_model()
    inputs = compare.prepare(loaded, Image.open(PICTURE), QUESTION)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())

    loaded.model.generate(**inputs, max_new_tokens=1)  # transformers adds hooks of its own
    before = hooks()
    first = compare.compare(loaded, inputs, sparsesight.SparseVLMPlus(), 2)
    assert hooks() == before
    assert compare.compare(loaded, inputs, sparsesight.SparseVLMPlus(), 2).kept == first.kept


def test_progress_goes_to_standard_error() -> None:
    result = ask("--json", FORCE_COLOR="1")
    json.loads(result.stdout)
    assert "loading the bundled model" in result.stderr


def test_what_a_checkpoints_code_prints_does_not_mix_with_json(monkeypatch: pytest.MonkeyPatch) -> None:
    real = loading.load_model

    def chatty(*args: Any) -> Any:
        print("hello from the checkpoint")
        return real(*args)

    monkeypatch.setattr(loading, "load_model", chatty)
    result = ask("--json")
    json.loads(result.stdout)
    assert "hello from the checkpoint" in result.stderr


def drawn(method: str, **options: Any) -> str:
    """What the library's own text says was kept, asked without the command line's code."""
    model, processor = bundled.load()
    image = Image.open(PICTURE)
    inputs = processor(text=f"USER: <image>\n{QUESTION} ASSISTANT:", images=image, return_tensors="pt")
    with sparsesight.sparsify(model, method, **options) as run, torch.no_grad():
        model(**inputs)
    return viz.text(viz.look(run, image, processor))


# What is refused


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["no.png", "what?"], "'no.png' does not exist"),
        (["no.png"], "'no.png' does not exist"),
        ([".", "what?"], "is a directory"),
        (["text.png", "what?"], "is not a picture"),
        ([str(PICTURE)], "no question was given about"),
        ([str(PICTURE), "  "], "question is empty"),
        (["Is <image> red?"], "'<image>'"),
        (["--retain", "few"], "--retain 'few'"),
        (["--layers", "few"], "--layers 'few'"),
        (["--layers", "4,2"], "--layers 4,2: give ascending 0-based layers"),
        (["--layers", "2,40"], "--layers 2,40: give"),
        (["--retain", "1,2,3"], "--retain 1,2,3:"),
        (["--retain", "3,2", "--layers", "0,1,2"], "2 counts for 3"),
        (["--method", "florb"], "'florb'"),
        (["--device", "florb"], "--device 'florb'"),
        (["--device", "meta"], "--device 'meta'"),
        (["--dtype", "int8"], "--dtype 'int8'"),
        pytest.param(["--retain", "1", "--layers", "5"], "--retain 1 of 576", id="found while generating"),
    ],
)
def test_mistakes_are_one_line(args: list[str], part: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert part in refused(ask(*args))


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more")

    monkeypatch.setattr(compare, "_generate", full)
    assert "not enough memory on cpu" in refused(ask())
