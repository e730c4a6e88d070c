"""``sparsesight eval`` from its options to its folder, on a few scenes."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError, VisionZip, bundled, provenance
from sparsesight.commands.options import choose_budgets, choose_methods, split_list
from sparsesight.method_names import DEFAULT
from tests.commands.command_line import plain_surroundings, refused, run  # noqa: F401

FEW = ("--tasks", "scenes", "--limit", "6", "--batch-size", "3")


def summary_of(*args: str, **environment: str) -> dict[str, Any]:
    """The summary that ``eval --json`` prints; nothing else may be on standard output."""
    result = run("eval", *FEW, "--json", *args, **environment)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_sweep_and_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = summary_of("--methods", "random,sparsevlm", "--retain", "192,0.25", "--out", str(out))
    assert found == json.loads((out / "summary.json").read_text())
    cells = found["tasks"]["scenes"]["cells"]
    assert list(cells) == ["dense", "random@192", "sparsevlm@192", "random@0.25", "sparsevlm@0.25"]
    assert found["costs"]["equal"] and found["costs"]["solved"]
    assert set(found["costs"]["spread"]) == {"192", "0.25"}
    assert {x.name for x in (out / "samples" / "scenes").iterdir()} == {f"{label}.jsonl" for label in cells}
    assert {"table.md", "table.csv", "run.json", "config.json"} <= {x.name for x in out.iterdir()}
    (session,) = json.loads((out / "run.json").read_text())
    assert session["torch"] and session["started"].endswith("Z") and session["processes"] == 1
    weights = hashlib.sha256((bundled.MODEL_PATH / "model.safetensors").read_bytes()).hexdigest()
    assert session["weights"] == f"sha256 {weights}"
    head = provenance.commit()
    assert session.get("commit") == head
    table = (out / "table.md").read_text()
    assert f"- weights: sha256 {weights}\n" in table
    assert head is None or f"- commit: {provenance.short(head)}\n" in table

    # Once more: refused without --resume, nothing changed with it, and a further method is added.
    assert "pass --resume" in refused(run("eval", *FEW, "--out", str(out)))
    same = ("--methods", "random,sparsevlm", "--out", str(out), "--resume")
    assert summary_of(*same, "--retain", "192,0.25") == found
    message = refused(run("eval", *FEW, *same, "--retain", "192,0.25", "--batch-size", "2"))
    assert "setting batch_size: there 3, now 2" in message
    message = refused(run("eval", *FEW, *same, "--retain", "192,0.25", "--limit", "5"))
    assert "setting limit: there 6, now 5" in message
    more = summary_of(
        "--methods", "random,sparsevlm,sparsevlm+", "--out", str(out), "--resume", "--retain", "192,0.25"
    )
    assert set(more["tasks"]["scenes"]["cells"]) > set(cells)


def test_variables_choose_as_upstream_did(tmp_path: Path) -> None:
    found = summary_of("--out", str(tmp_path / "run"), RETAIN_TOKN="160")
    cells = found["tasks"]["scenes"]["cells"]
    assert list(cells) == ["dense", f"{DEFAULT}@160"]
    assert cells[f"{DEFAULT}@160"]["retain"] == "160"
    # A version is a published setting, which has no budget of 160 and does not fit a decoder of 8 layers.
    message = refused(run("eval", *FEW, RETAIN_TOKN="160", USE_VERSION="2_0"))
    assert "'sparsevlm+:published' is published at 192, 128, 96 or 64" in message
    message = refused(
        run("eval", *FEW, "--out", str(tmp_path / "other"), RETAIN_TOKN="192", USE_VERSION="1_0")
    )
    assert "'sparsevlm' instead of 'sparsevlm:published'" in message


def test_published_settings_and_counts_from_data_are_at_their_own_cost(tmp_path: Path) -> None:
    names = "visionzip:published,random,sparsevlm(adaptive=True),visionzip:published(retain=64)"
    out = tmp_path / "run"
    found = summary_of("--methods", names, "--retain", "192,128", "--out", str(out))
    cells = found["tasks"]["scenes"]["cells"]
    assert list(cells) == [
        "dense",
        "sparsevlm(adaptive=True)",
        "visionzip:published(retain=64)",
        "visionzip:published@192",
        "random@192",
        "visionzip:published@128",
        "random@128",
    ]
    assert cells["sparsevlm(adaptive=True)"]["retain"] is None
    assert cells["visionzip:published@128"]["method"] == VisionZip.published(128).to_dict()
    assert cells["visionzip:published@128"]["cost"]["equal_tokens"] == 128
    # 128 tokens in every layer cost less than an average of 128 that begins with all of them.
    assert (
        cells["visionzip:published@128"]["cost"]["macs_sparse"] < cells["random@128"]["cost"]["macs_sparse"]
    )
    table = (out / "table.md").read_text()
    assert table.startswith("# Sweep: costs differ")
    assert "no budget solved: `sparsevlm(adaptive=True)`, `visionzip:published(retain=64)`, `vis" in table
    assert "| sparsevlm(adaptive=True) |  |" in table


def test_counts_from_data_alone(tmp_path: Path) -> None:
    how = ("--methods", "sparsevlm(adaptive=True)", "--out", str(tmp_path / "run"))
    assert list(summary_of(*how)["tasks"]["scenes"]["cells"]) == ["dense", "sparsevlm(adaptive=True)"]
    assert (
        (tmp_path / "run" / "table.md")
        .read_text()
        .startswith("# Sweep: no common budget, each at its own cost")
    )


def test_benchmarks_need_a_model(tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval")
    message = refused(run("eval", "--tasks", "scenes,mme", RETAIN_TOKN="192", USE_VERSION="2_0"))
    assert "--tasks 'mme'" in message and "name a --model" in message
    # The same model by its name, where it is meant.
    how = ("--model", "bundled", "--methods", "random", "--retain", "64", "--out", str(tmp_path / "run"))
    assert list(summary_of(*how)["tasks"]["scenes"]["cells"]) == ["dense", "random@64"]


def test_same_retain_costs_what_it_costs(tmp_path: Path) -> None:
    given = ("--retain", "(200,100,50)", "--same-retain")
    found = summary_of("--methods", "random", *given, "--out", str(tmp_path / "run"))
    assert found["tasks"]["scenes"]["cells"]["random@200,100,50"]["method"]["retain"] == [200, 100, 50]
    assert not found["costs"]["solved"]
    head = (tmp_path / "run" / "table.md").read_text("utf-8").splitlines()[0]
    assert head == "# Sweep: same retain, one method at each budget, no costs to compare"


def test_the_table_is_printed(tmp_path: Path) -> None:
    result = run(
        *("eval", *FEW, "--methods", "random,sparsevlm", "--retain", "128"),
        *("--latency", "--out", str(tmp_path / "run")),
    )
    assert result.exit_code == 0, result.stderr
    printed = " ".join(result.stdout.split())
    assert re.match("(random|sparsevlm) .*score", printed) and printed.count("difference from dense") == 1
    assert printed.index("difference from dense") < printed.index(
        "equal cost"
    )  # the notes stand below the table
    assert "6 questions about 1 scene; too few for reliable intervals" in printed
    table = (tmp_path / "run" / "table.md").read_text()
    assert table.startswith("# Sweep: equal cost") and "prefill, ms" in table
    rows = list(csv.DictReader((tmp_path / "run" / "table.csv").open()))
    assert {row["method"] for row in rows} == {"dense", "random", "sparsevlm"}
    assert all(float(row["prefill_ms"]) > 0 for row in rows if not row["group"])
    assert f"written to {tmp_path / 'run'}" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tasks", "scenes", "--methods", "guess"], "'guess' is unknown"),
        (["--tasks", "scenes", "--methods", "random(seed=1"], "the brackets do not match"),
        (["--tasks", "scenes,scenes"], "'scenes' is named twice"),
        (["--tasks", "scenes,"], "write names with commas between them"),
        (["--tasks", "scenes", "--retain", "many"], "'many' is not a budget"),
        (["--tasks", "scenes", "--limit", "0"], "--limit"),
        (["--tasks", "scenes", "--prompts", "loud"], "--prompts 'loud' is unknown"),
        (["--tasks", "scenes", "--model", "nowhere/at/all"], "does not exist"),
    ],
)
def test_refusals(args: list[str], message: str) -> None:
    assert message in refused(run("eval", *args))


def test_refused_options_leave_no_folder(tmp_path: Path) -> None:
    refused(run("eval", *FEW, "--retain", "(300,200,110)", "--methods", "random"))
    assert not list(tmp_path.iterdir())


def test_without_lmms_eval_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *args: Any) -> Any:
        return None if name == "lmms_eval" else find(name, *args)

    monkeypatch.setattr("sparsesight.eval.prepare.find_spec", without)
    message = refused(run("eval", "--tasks", "mme"))
    assert "pip install 'sparsesight[eval]'" in message and "scenes" in message


def test_lists_split_outside_brackets() -> None:
    text = "visionzip(retain=192, layers=(1,2)) > sparsevlm+, random"
    assert split_list(text, "--methods") == ["visionzip(retain=192, layers=(1,2)) > sparsevlm+", "random"]
    for wrong in ("a,,b", "", "a)(b", "a((b)"):
        with pytest.raises(SparseSightError, match=r"^--methods"):
            split_list(wrong, "--methods")


def test_budgets_and_methods_by_option_and_environment() -> None:
    assert choose_budgets(None, {}) == [192, 128, 64]
    assert choose_budgets("64, 0.5,(300,200,110)", {"RETAIN_TOKN": "7"}) == [64, 0.5, (300, 200, 110)]
    assert choose_budgets(None, {"RETAIN_TOKN": "192"}) == [192]
    assert choose_methods(None, {}) == ["dense", DEFAULT]
    assert choose_methods(None, {"USE_VERSION": "1_0"}) == ["dense", "sparsevlm:published"]
    assert choose_methods("random", {"USE_VERSION": "1_0"}) == ["random"]


def test_a_text_tower(tmp_path: Path) -> None:
    """It is loaded once, and asked what the prompts ask."""
    from tests.hf.vision.text_towers import clip_of, text_tokenizer

    clip_of(bundled.load()[0]).save_pretrained(tmp_path / "clip")
    text_tokenizer().save_pretrained(tmp_path / "clip")
    method = "cdpruner(guide='text-tower', opposite=True)"
    tower = ("--text-tower", str(tmp_path / "clip"))
    how = ("--methods", f"{method},cdpruner", "--retain", "64", "--out", str(tmp_path / "run"))
    found = summary_of(*how, *tower)
    cells = found["tasks"]["scenes"]["cells"]
    assert cells[f"{method}@64"]["method"]["guide"] == "text-tower"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["text_tower"] == tower[1]

    assert "reads a text tower: give the CLIP" in refused(run("eval", *FEW, *how))
    plain = ("--methods", "cdpruner", "--retain", "64", "--out", str(tmp_path / "other"))
    assert "none of --methods reads one; leave it out" in refused(run("eval", *FEW, *plain, *tower))
    message = refused(
        run("eval", *FEW, *how[:-1], str(tmp_path / "third"), "--text-tower", str(bundled.MODEL_PATH))
    )
    assert "is a 'llava': give the CLIP" in message
