"""Own rows from files: what is read, and what is named by its number before anything runs."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsesight import SparseSightError
from sparsesight.eval.own import rows as bounds
from sparsesight.eval.own.data import check_pictures, read_own
from sparsesight.eval.own.read import read_rows
from sparsesight.eval.own.rows import Row
from sparsesight.eval.own.scorers import choose_scorer, contains, matches, normalised, same


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), color).save(tmp_path / name)
    return tmp_path


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "my.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in rows))
    return file


def test_rows_of_every_kind(folder: Path) -> None:
    (folder / "clip.mp4").write_bytes(b"x")
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "First"}, {"type": "image"}]},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
    ]
    file = written(
        folder,
        {"image": "a.png", "question": "What?", "answer": 3},
        "",
        {"images": ["a.png", "b.png"], "messages": chat, "answer": "blue"},
        {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": "Both?"}], "answer": "x"},
        {"video": "clip.mp4", "question": "When?", "answer": "now", "more": 1},
    )
    one, two, both, clip = read_rows(file)
    assert (one.number, one.answer, one.question) == (1, "3", "What?")
    assert [x if isinstance(x, str) else Path(x.name).name for x in one.turns[0][1]] == ["a.png", "What?"]
    assert two.number == 3 and two.question == "And this?"
    content = two.messages()
    assert [[part["type"] for part in m["content"]] for m in content] == [
        ["text", "image"],
        ["text"],
        ["image", "text"],
    ]
    assert content[2]["content"][0]["url"].getpixel((0, 0)) == (0, 0, 255)
    assert [isinstance(x, str) for x in both.turns[0][1]] == [False, False, True]
    assert clip.messages()[0]["content"][0] == {"type": "video", "url": str(folder / "clip.mp4")}
    assert len(read_rows(file, limit=2)) == 2


def test_every_bad_row_is_named(folder: Path) -> None:
    bad = written(folder, *({"image": f"{n}.png", "question": "?"} for n in range(1, 9)))
    with pytest.raises(SparseSightError) as said:
        read_rows(bad)
    assert "8 of 8 rows" in str(said.value) and str(said.value).endswith(
        "; as well as line 6, line 7, line 8"
    )


def test_pictures_that_are_damaged_behind_their_headers(folder: Path) -> None:
    Image.effect_noise((64, 64), 90).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    rows = [{"image": x, "question": "?"} for x in ("a.png", "cut.png", "b.png")]
    own = read_own([str(written(folder, *rows, {"images": ["b.png", "cut.png"], "question": "?"}))])
    seen: list[Row] = []
    with pytest.raises(
        SparseSightError, match=r"my.jsonl: 2 of 4 rows .* line 2: .*damaged.*; line 4: .*damaged"
    ):
        check_pictures(own, seen.append)
    assert [row.number for row in seen] == [1, 2, 3, 4]


def test_csv_folder_and_dataset(folder: Path) -> None:
    with (folder / "my.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "images", "question"])
        table.writerow(["a.png", "", "What,\nis it?"])
        table.writerow(["", '["a.png", "b.png"]', "Both?"])
    rows = read_rows(folder / "my.csv")
    assert [len(row.sources) for row in rows] == [1, 2] and rows[0].question == "What,\nis it?"
    rows = read_rows(folder, question="What is it?")
    assert [Path(row.sources[0].name).name for row in rows] == ["a.png", "b.png"]
    assert {row.question for row in rows} == {"What is it?"}

    datasets = pytest.importorskip("datasets")
    data = {
        "image": [Image.new("RGB", (9, 9), "lime"), Image.new("RGB", (7, 7))],
        "question": ["a", "b"],
        "id": [1, 2],
    }
    datasets.Dataset.from_dict(data).save_to_disk(str(folder / "set"))
    rows = read_rows(folder / "set")
    assert [row.question for row in rows] == ["a", "b"]
    assert rows[0].messages()[0]["content"][0]["url"].getpixel((0, 0)) == (0, 255, 0)
    many = {"images": [[Image.new("RGB", (9, 9)), Image.new("RGB", (7, 7))]], "question": ["a"]}
    datasets.Dataset.from_dict(many).save_to_disk(str(folder / "many"))
    (row,) = read_rows(folder / "many")
    assert [part["url"].size for part in row.messages()[0]["content"][:2]] == [(9, 9), (7, 7)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "line 2: it is damaged"),
        ("[1]", "line 2: it is damaged"),
        ({"question": "What?"}, "no picture: give one of image, images (a list) and video"),
        ({"image": "a.png", "video": "b", "question": "?"}, "has image and video"),
        ({"image": "a.png"}, "give either question or messages"),
        ({"image": "a.png", "question": 3}, "question=3: write it as text"),
        ({"image": "c.png", "question": "?"}, "c.png' does not exist"),
        ({"image": "my.jsonl", "question": "?"}, "is not a picture"),
        ({"image": "../a.png", "question": "?"}, "'../a.png' lies outside"),
        ({"image": "/etc/passwd", "question": "?"}, "'/etc/passwd' lies outside"),
        ({"image": "link.png", "question": "?"}, "'link.png' lies outside"),
        ({"image": "a\0.png", "question": "?"}, "is no path"),
        ({"image": ["a.png"], "question": "?"}, "is no path"),
        ({"images": "a.png", "question": "?"}, "images='a.png': give a list"),
        ({"images": ["a.png"] * 65, "question": "?"}, "65 are more than the limit of 64"),
        ({"video": ".", "question": "?"}, "is no file of"),
        ({"image": "a.png", "messages": "hi"}, "messages='hi': give a list"),
        ({"image": "a.png", "messages": [{"role": "tool", "content": "x"}]}, "has no role of"),
        (
            {"image": "a.png", "messages": [{"role": "assistant", "content": "x"}]},
            "end with a turn of the assistant",
        ),
        ({"image": "a.png", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        (
            {"image": "a.png", "messages": [{"role": "user", "content": [{"type": "image"}] * 2}]},
            "messages have 2 pictures, the row has 1",
        ),
        ({"image": "a.png", "question": "?", "answer": ["x"]}, "answer=['x']: write it as text"),
        ({"image": "a.png", "question": "x" * 100_001}, "100,001 characters"),
        ({"image": "a.png", "question": "\ud800"}, "half of a character"),
        ({"image": "a\udcff.png", "question": "?"}, "is no path"),
    ],
)
def test_bad_rows_are_named(
    row: Any, words: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    os.symlink(elsewhere, folder / "link.png")
    good = {"image": "a.png", "question": "What?"}
    with pytest.raises(SparseSightError) as error:
        read_rows(written(folder, good, row, good, row))
    text = str(error.value)
    assert "2 of 4 rows cannot be asked: line 2: " in text and "line 4: " in text and words in text
    assert len(text) < 3000


def test_bad_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"image": "a.png", "question": "What?"}
    for rows, words in (
        ([], "has no rows"),
        ([row, {**row, "answer": "x"}], "1 of 2 rows have no answer, the first is line 1"),
        ([{**row, "answer": " "}, {**row, "answer": "x"}], "1 of 2 rows have no answer, the first is line 1"),
        (["x" * (1 << 20) + "x"], "line 1: longer than 1,048,576"),
    ):
        with pytest.raises(SparseSightError, match=words):
            read_rows(written(folder, *rows))
    monkeypatch.setattr(bounds, "MAX_ROWS", 3)
    with pytest.raises(SparseSightError, match="more than 3 rows"):
        read_rows(written(folder, *[row] * 4))
    (folder / "my.jsonl").write_bytes(b"\xff")
    (folder / "my.csv").write_text("question\nwhat")
    (folder / "other.csv").write_text("image,question\na.png")
    (folder / "quote.csv").write_text('image, question\na.png, "what" is it\n')
    (folder / "x.txt").write_text("x")
    os.mkfifo(folder / "pipe.jsonl")
    for name, words in (
        ("my.jsonl", "cannot be read"),
        ("my.csv", "names no column image"),
        ("other.csv", "line 2: has more or fewer cells"),
        ("quote.csv", "cannot be read as CSV .*: quote cells"),
        ("missing.jsonl", "cannot be read"),
        ("x.txt", "rows are read from"),
        ("pipe.jsonl", "not a regular file"),
        ("", "give one --question"),
    ):
        with pytest.raises(SparseSightError, match=words):
            read_rows(folder / name)
    with pytest.raises(SparseSightError, match="--question goes with a folder"):
        read_rows(folder / "my.jsonl", question="What?")


def test_own_data_among_tasks(folder: Path) -> None:
    file = written(folder, {"image": "a.png", "question": "What?", "answer": "red"})
    found = read_own(["scenes", str(file)])
    assert list(found) == [str(file)] and found[str(file)].name == "my"
    assert found[str(file)].scorer is same
    assert read_own(["scenes"]) == {}
    with pytest.raises(SparseSightError, match="--score 'regex' goes with own data"):
        read_own(["scenes"], score="regex")


def test_scorers(folder: Path) -> None:
    assert normalised(" The  Red, square. ") == "the red square" and normalised("?") == "?"
    assert same("Red.", "red") and not same("reddish", "red")
    assert [normalised(x) for x in ("-5", "(-5).", "$5", ".5", "5%", "-x")] == [
        "-5",
        "-5",
        "5",
        ".5",
        "5",
        "x",
    ]
    assert contains("It is Red, I think", "red") and not contains("nothing", "no")
    assert matches("7 cards", r"^\d+\b") and not matches("cards", r"\d")
    assert matches("a" * 40 + "b", "(a|aa)+$") == 0  # not after minutes
    huge = read_rows(written(folder, {"image": "a.png", "question": "?", "answer": "((a{99}){99}){99}"}))
    with pytest.raises(SparseSightError, match=r"line 1: the pattern .* more than 10,000 repeats"):
        choose_scorer("regex", huge)  # compiled, it would take gigabytes
    with_answers = read_rows(written(folder, {"image": "a.png", "question": "?", "answer": "(["}))
    for name, words in (
        ("regex", "line 1: '.*' is no regular expression"),
        ("exakt", "did you mean 'exact'"),
    ):
        with pytest.raises(SparseSightError, match=words):
            choose_scorer(name, with_answers)
    without = read_rows(written(folder, {"image": "a.png", "question": "?"}))
    with pytest.raises(SparseSightError, match="needs rows with answers"):
        choose_scorer("exact", without)
    pytest.importorskip("lmms_eval")
    assert choose_scorer("anls", with_answers)("abcd", "abce") == 0.75
    assert choose_scorer("exact_match", with_answers)("a", "a") == 1
    relaxed = choose_scorer("relaxed_accuracy", with_answers)
    assert [relaxed(x, "40") for x in ("41.9", " 40 ", "43", "forty")] == [1, 1, 0, 0]
    for name in ("chrf", "bleu", "ter"):
        score = choose_scorer(name, with_answers)
        said = "a small red star left of a ring"
        near, far = score("a small red star left of the ring", said), score("three blue cars", said)
        assert score(said, said) == 1 and 0 <= far < near < 1, name
