"""Text of models, paths and answers on a terminal: it steers nothing, is no markup and stays one line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled
from sparsesight.bench import table
from sparsesight.commands import bench as benching
from sparsesight.hf import loading
from sparsesight.terminal import plain
from tests.commands.command_line import plain_surroundings, run  # noqa: F401

NASTY = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\u2066e\u200bf\rg\x00h\u2028i[/x][bold]j[link=http://x]k\U000e0041"
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Printed text that steers nothing."""
    assert not STEERING.search(text), ascii(STEERING.search(text))
    return text


@pytest.mark.parametrize(
    "sign", [chr(x) for x in (*range(10), *range(11, 32), *range(127, 160), 0x202E, 0xFEFF, 0xD800)]
)
def test_what_steers_a_terminal_is_shown(sign: str) -> None:
    assert plain(f"a{sign}b") in ("a\N{REPLACEMENT CHARACTER}b", "a b")
    assert "\n" not in plain(f"a{sign}\nb", breaks=False)


def test_words_stay_words() -> None:
    text = "Grüße, 日本語 [/x] [bold]\na\N{NO-BREAK SPACE}b"
    assert plain(text) == text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "--model", f"./{NASTY}".replace("\0", "")),
        ("ask", "--model", NASTY),
        ("ask", "--save", f"{NASTY}.png", "What is it?"),
        ("ask", "--method", NASTY),
        ("ask", "--retain", NASTY),
        ("ask", "--layers", NASTY),
        ("ask", "--device", NASTY),
        ("ask", "--dtype", NASTY),
        ("ask", f"{NASTY}.png", "What?"),
        ("ask", f"--{NASTY}"),
        (NASTY,),
        ("eval", "--tasks", "scenes", "--methods", NASTY),
        ("eval", "--tasks", "scenes", "--model", f"./{NASTY}"),
        ("eval", "--tasks", "scenes", "--out", NASTY, "--resume", "--prompts", NASTY),
        ("bench", "--shape", NASTY),
        ("bench", "--methods", NASTY, "--shape", "tiny"),
        ("bench", "--attention", NASTY),
        ("bench", "--model", f"./{NASTY}"),
        ("demo", "--method", NASTY),
        ("demo", "--model", f"./{NASTY}"),
        ("serve", f"-{NASTY}"),
        ("serve", "x", "--method", NASTY),
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:30],
)
def test_an_error_is_one_clean_line(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2, result.exception
    assert clean(result.stdout) == ""
    *progress, error = clean(result.stderr).splitlines()
    assert error.startswith("error: ") and all(line.startswith("loading ") for line in progress)


def test_an_error_has_a_length() -> None:
    result = run("ask", "--device", "x" * 100_000)
    assert len(result.stderr) < 5000 and result.exit_code == 2


def test_an_answer_and_names_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a path has markup in it, and the model answers in escapes."""
    folder = tmp_path / "[/x][bold]\x1b[31mmodel"
    shutil.copytree(bundled.MODEL_PATH, folder)
    original = loading.load_model

    def load(*args: Any, **kwargs: Any) -> Any:
        loaded = original(*args, **kwargs)
        monkeypatch.setattr(loaded.processor, "decode", lambda *_, **__: NASTY, raising=False)
        return dataclasses.replace(loaded)

    monkeypatch.setattr(loading, "load_model", load)
    saved = tmp_path / "[/y]\x1b[31mkept.png"
    result = run("ask", "--model", str(folder), "--save", str(saved), "--max-new-tokens", "2")
    assert result.exit_code == 0, result.exception
    assert saved.exists()
    shown = clean(result.stdout) + clean(result.stderr)
    assert "[/x][bold]" in shown.replace("\n", "") and "[/y]" in shown and "[link=http://x]k" in shown


def test_errors_of_a_model(tmp_path: Path) -> None:
    """A dtype, a template that says what it likes."""
    folder = Path(shutil.copytree(bundled.MODEL_PATH, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('" + NASTY.replace("\0", "") + "') }}")
    result = run("ask", "--model", str(folder))
    assert result.exit_code == 2 and clean(result.stderr).count("\n") == 1 and "[/x][bold]" in result.stderr
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": NASTY}))
    result = run("ask", "--model", str(folder), "--dtype", "auto")
    assert result.exit_code == 2 and clean(result.stderr).count("\n") == 1


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_is_saved_through_a_link(tmp_path: Path, kind: str) -> None:
    import os

    target, save = tmp_path / "theirs", tmp_path / "kept.png"
    target.write_text("theirs")
    if kind == "link":
        save.symlink_to(target)
    else:
        os.mkfifo(save)
    result = run("ask", "--save", str(save))
    assert result.exit_code == 2 and "link" in result.stderr and target.read_text() == "theirs"


def test_markup_in_a_run_of_eval(tmp_path: Path) -> None:
    out = tmp_path / "[/x]\x1b[31mrun"
    options = ["--limit", "2", "--methods", "random(layers=[1])", "--retain", "128", "--same-retain"]
    result = run("eval", "--tasks", "scenes", *options, "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert "[/x]" in clean(result.stdout)
    clean(result.stderr)


def test_markup_in_a_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The subject has the name of the model, remarks and tables those of methods."""
    made = table.Table(NASTY, [NASTY], [[NASTY]])
    monkeypatch.setattr(table, "remarks", lambda rows: [NASTY])
    monkeypatch.setattr(table, "tables", lambda rows: [made])
    benching._show({"subject": NASTY}, [], [], details=True, same_retain=False)
    shown = clean(capsys.readouterr().out)
    assert shown.replace("\n", "").count("[/x]") >= 3


@pytest.mark.parametrize("name", ["/" + "x" * 5000, "x" * 5000, "~nobody-of-this-name/x"])
@pytest.mark.parametrize(
    "words",
    [
        ("ask", "--model"),
        ("bench", "--model"),
        ("eval", "--tasks", "scenes", "--model"),
        ("eval", "--tasks", "scenes", "--methods", "cdpruner:published", "--text-tower"),
        ("ask", "--save"),
    ],
    ids=" ".join,
)
def test_a_name_that_is_no_path(words: tuple[str, ...], name: str) -> None:
    """Python raises for one that is too long, or for the home of somebody who does not exist."""
    name = f"{name}/kept.png" if words[-1] == "--save" else name
    result = run(*words, name, HF_HUB_OFFLINE="1")
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2, repr(result.exception)
    assert result.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in result.stderr
