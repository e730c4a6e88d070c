"""``sparsesight tune`` from its options to its folder, on a few pictures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sparsesight import METHODS
from sparsesight.commands.tune import duration
from sparsesight.eval.cell_file import CellFile
from sparsesight.eval.own.data import OwnData
from sparsesight.eval.own.read import read_rows
from sparsesight.eval.own.task import OwnRows
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.eval.tune.settings import make_settings
from sparsesight.eval.tune.times import measured_times
from sparsesight.hf.loading import load_model
from sparsesight.settings import read_settings
from tests.commands.command_line import asked, plain_surroundings, refused, run  # noqa: F401

LEAST = (
    "--keep",
    "0.5",
    "--confidence",
    "0.5",
    "--max-new-tokens",
    "3",
    "--retain",
    "0.6,0.05",
    "--batch-size",
    "8",
)
COUNT = 12
SCRIPT = "What color is the <b>large</b> object?"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Pictures, each with a question, in the folder that commands run in."""
    rng = random.Random(0)
    lines = []
    for i in range(COUNT):
        image = Image.new("RGB", (336, 336), "white")
        draw = ImageDraw.Draw(image)
        for color in rng.sample(["red", "blue", "green", "orange"], 3):
            x, y = rng.randrange(240), rng.randrange(240)
            draw.ellipse((x, y, x + 70, y + 70), fill=color)
        image.save(tmp_path / f"{i}.png")
        question = rng.choice([SCRIPT, "What <b>shape</b> is the red object?"])
        lines.append(json.dumps({"image": f"{i}.png", "question": question}))
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    return tmp_path / "my.jsonl"


def tuned(*args: str) -> dict[str, Any]:
    result = run("tune", "my.jsonl", *LEAST, "--json", *args)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "less than a minute"),
        (59, "less than a minute"),
        (70, "about 1 minute"),
        (95, "about 2 minutes"),
        (5400, "about 90 minutes"),
        (36000, "about 10 hours"),
    ],
)
def test_what_a_search_will_take_is_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_search_and_its_folder(rows: Path) -> None:
    found = tuned("--methods", "halves,sparsevlm+(layers=(99,))")
    folder = rows.parent / "tune-run"
    assert found == json.loads((folder / "tune.json").read_text())
    by_name = {x["setting"]: x for x in found["candidates"]}
    assert "layers=(99,)" in by_name["sparsevlm+(retain=0.6, layers=(99,))"]["state"]
    assert by_name["halves(retain=0.6)"]["cost"] > by_name["halves(retain=0.05)"]["cost"]
    (chosen,) = (x for x in found["candidates"] if x["chosen"])
    assert chosen["held"] == COUNT - 8 and chosen["held_kept"] >= 0.5 and chosen["cost_share"] < 1
    said = found["verdict"]
    assert said.startswith(f"{chosen['setting']}: ") and "less prefill arithmetic" in said
    assert "at least 50 % with 50 % confidence" in said and f"of {COUNT - 8} held-back answers" in said
    assert str(read_settings(folder / "sparsesight.json")) == chosen["setting"]
    assert said in (folder / "table.md").read_text() and (folder / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert asked("--settings", "tune-run/sparsesight.json")["method"]["method"] in METHODS
    assert "pass --resume" in refused(run("tune", "my.jsonl", *LEAST))

    # Without a promise there is no setting, and the page shows the changed rows of the closest one, escaped.
    found = tuned("--methods", "random", "--retain", "0.01", "--keep", "0.8", "--out", "none")
    assert found["settings"] is None and "no setting was shown to keep 80 %" in found["verdict"]
    page = (rows.parent / "none" / "changed.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page and "data:image/jpeg" in page
    assert not (rows.parent / "none" / "sparsesight.json").exists()


def test_a_stopped_search_goes_on_byte_for_byte(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--methods", "random", "--retain", "0.3")
    tuned(*options)
    first = {x.name: x.read_bytes() for x in (rows.parent / "tune-run").iterdir() if x.is_file()}
    (rows.parent / "tune-run").rename(rows.parent / "first")
    append, count = CellFile.append, 0

    def stopping(self: CellFile, *given: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        append(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "append", stopping)
        assert run("tune", "my.jsonl", *LEAST, *options).exit_code != 0
    asked_again = []
    answers = OwnRows.answers
    monkeypatch.setattr(OwnRows, "answers", lambda self, *x: asked_again.append(1) or answers(self, *x))
    tuned(*options, "--resume")
    for name in ("tune.json", "sparsesight.json", "changed.html", "plot.png"):
        if name in first:
            assert (rows.parent / "tune-run" / name).read_bytes() == first[name], name
    assert "tune.json" in first and asked_again
    asked_again.clear()
    tuned(*options, "--resume")
    assert not asked_again


def test_what_first_calls_take_is_not_in_the_estimate(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense row takes a minute, a pruned one six seconds, and the first batch ten minutes more."""
    clock, asked_of = [0.0], list[bool]()
    answers = OwnRows.answers

    def slow(self: OwnRows, items: Any, method: Any) -> Any:
        clock[0] += len(items) * (60 if method is None else 6) + 600 * (not asked_of)
        asked_of.append(method is None)
        return answers(self, items, method)

    monkeypatch.setattr(OwnRows, "answers", slow)
    monkeypatch.setattr("sparsesight.eval.tune.run.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    result = run("tune", "my.jsonl", *LEAST, "--methods", "sparsevlm+(layers=(99,)),random")
    # 12 dense rows; at most 8 of each setting to search, and two settings tested on 4: 40 of six seconds.
    assert "12 rows, 4 settings: about 16 minutes" in result.stderr
    assert asked_of[:3] == [True, True, False]


def test_times_are_measured_by_the_bench(rows: Path) -> None:
    loaded = load_model()
    prompts = Prompts(loaded.processor, choose_setting("own", loaded.name), frames=1, clips=False)
    task = OwnRows("my", read_rows(rows), loaded, prompts, max_new_tokens=2)
    settings = make_settings(["halves"], [0.1, 1.0])
    times, _ = measured_times(task, settings, repeats=1)
    assert set(times) == {"dense", "halves(retain=0.1)"} and min(times.values()) > 0
    assert len(OwnData("my", read_rows(rows), None).items()) == COUNT


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--keep", "98"), "--keep 98: give a share"),
        (("--confidence", "1"), "--confidence 1: give a share"),
        (("--by", "watts"), "--by 'watts' is unknown"),
        (("--keep", "0.98", "--confidence", "0.8"), f"with {COUNT} rows at most"),
        (("--methods", "halfs"), "did you mean 'halves'"),
        (("--retain", "many"), "--retain 'many' is not a budget"),
        (("--question", "What?"), "--question goes with a folder"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(options: tuple[str, ...], words: str, rows: Path) -> None:
    assert words in refused(run("tune", "my.jsonl", *LEAST, *options))
    assert not (rows.parent / "tune-run").exists()


def test_by_time(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured once for a folder; what was not measured is skipped."""
    from sparsesight.eval.tune import write

    measured = []

    def times(*_: Any) -> tuple[dict[str, float], str]:
        measured.append(1)
        return {"dense": 10.0, "random(retain=0.6)": 4.0}, "a noisy machine"

    monkeypatch.setattr(write, "measured_times", times)
    options = ("--methods", "random", "--by", "time")
    found = tuned(*options)
    assert "2.5x less time to the first token" in found["verdict"] and found["warnings"] == [
        "a noisy machine"
    ]
    assert "Warning: a noisy machine." in (rows.parent / "tune-run" / "table.md").read_text()
    cheap = next(x for x in found["candidates"] if x["setting"] == "random(retain=0.05)")
    assert "its time cannot be measured" in cheap["state"]
    assert tuned(*options, "--resume") == found and len(measured) == 1


def test_what_is_slower_than_the_dense_model_is_no_setting(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsesight.eval.tune import write

    times = {"dense": 10.0, "random(retain=0.6)": 14.0, "random(retain=0.05)": 10.0}
    monkeypatch.setattr(write, "measured_times", lambda *_: (times, ""))
    found = tuned("--methods", "random", "--by", "time")
    assert "no setting takes less time to the first token than the dense model here" in found["verdict"]
    assert {x["state"] for x in found["candidates"]} == {"costs no less than dense"}
    assert found["settings"] is None
