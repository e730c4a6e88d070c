"""Own rows as a task: figures of dense answers, batches and singles, and a sweep over them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import SparseSightError, bundled, prompt_ends, sparsify
from sparsesight.compare import prepare
from sparsesight.eval.own import near_ties
from sparsesight.eval.own.read import read_rows
from sparsesight.eval.own.rows import Row
from sparsesight.eval.own.task import OwnRows
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.hf.loading import Loaded, load_model
from sparsesight.images import open_image
from sparsesight.methods import make_method
from tests.commands.command_line import plain_surroundings, run  # noqa: F401

COUNT = 4


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    asked = bundled.picture_questions()
    rows = [
        {"image": path.name, "question": x["question"]}
        for path in bundled.pictures()
        for x in asked[path.name]
    ]
    for path in bundled.pictures():
        shutil.copy(path, folder / path.name)
    (folder / "my.jsonl").write_text("\n".join(map(json.dumps, rows[::5][:COUNT])))
    return folder / "my.jsonl"


def task(data: Path, loaded: Loaded, **options: Any) -> OwnRows:
    prompts = Prompts(loaded.processor, choose_setting("own", loaded.name), frames=1, clips=False)
    return OwnRows("my", read_rows(data), loaded, prompts, max_new_tokens=4, **options)


def pair(loaded: Loaded, row: Row, method: Any) -> dict[str, float]:
    """Figures of one row from a plain pair of forwards over prompt and dense answer."""
    inputs = prepare(loaded, open_image(row.sources[0].name), row.question)
    width = inputs["input_ids"].shape[1]
    with torch.no_grad():
        whole = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        answer = whole[0, width:]
        both = {**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
        dense = loaded.model(**both).logits[0, width - 1 : -1].log_softmax(-1)
        with sparsify(loaded.model, method, turns=loaded.turns), prompt_ends(loaded.model, width):
            sparse = loaded.model(**both).logits[0, width - 1 : -1].log_softmax(-1)
    lost = (dense - sparse).gather(1, answer[:, None]).mean()
    return {
        "lost": float(lost),
        "kl": float((dense[0].exp() * (dense[0] - sparse[0])).sum()),
        "rank": float((sparse[0] > sparse[0, answer[0]]).sum() + 1),
    }


@pytest.mark.parametrize(
    "name", ["sparsevlm+", pytest.param("visionzip", marks=pytest.mark.slow), "divprune"]
)
def test_figures_are_those_of_a_plain_pair_of_forwards(name: str, data: Path, loaded: Loaded) -> None:
    method, mine = make_method(name, retain=24), task(data, loaded)
    with mine.answering(method) as answer:
        found = answer(mine.items)
    for item, x in zip(mine.items, found, strict=True):
        expected = pair(loaded, item.request, method)
        for key, value in expected.items():
            assert x.figures[key] == pytest.approx(value, abs=2e-4), (item.id, key)
    assert {x.figures["same"] for x in found} <= {0.0, 1.0}


@pytest.mark.parametrize(
    "name",
    ["visionzip", "halves", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sparsevlm+", "dart"))],
)
def test_answers_and_costs_are_those_of_single_generations(name: str, data: Path, loaded: Loaded) -> None:
    method, mine = make_method(name, retain=24), task(data, loaded)
    with mine.answering(method) as answer:
        together = answer(mine.items)
    alone = task(data, loaded)
    with alone.answering(method) as answer:
        singles = [answer([item])[0] for item in alone.items]
    assert [x.text for x in together] == [x.text for x in singles]
    assert [x.cost for x in together] == [x.cost for x in singles]
    assert [x.figures["same"] for x in together] == [x.figures["same"] for x in singles]
    for item, x in zip(mine.items, together, strict=True):
        inputs = prepare(loaded, open_image(item.request.sources[0].name), item.question)
        with sparsify(loaded.model, method, turns=loaded.turns) as handle:
            output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        text = loaded.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert x.text == text.strip()
        assert x.cost["macs_sparse"] == handle.report.macs_sparse
        assert x.cost["kv_bytes_sparse"] == handle.report.kv_bytes_sparse


def test_pictures_and_dense_answers_are_made_once(data: Path, loaded: Loaded) -> None:
    mine, seen = task(data, loaded), []
    hook = loaded.model.model.vision_tower.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        for name in (None, "divprune", "random"):
            with mine.answering(None if name is None else make_method(name, retain=0.6)) as answer:
                found = answer(mine.items)
                changed = sum(x.figures["same"] == 0 for x in found)
                assert len(seen) == 1 or changed
                del seen[1:]
    finally:
        hook.remove()


def test_placeholders_are_refused_before_anything_runs(data: Path, loaded: Loaded) -> None:
    row = {"image": bundled.default_picture().name, "question": "What is <image>?"}
    file = data.parent / "bad.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(SparseSightError, match="line 1: its text holds '<image>'"):
        task(file, loaded)


def test_a_sweep_over_own_rows(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--methods", "random", "--retain", "0.1", "--out", str(out), "--json", "--batch-size", "4")
    result = run("eval", "--tasks", str(data), *options)
    assert result.exit_code == 0, result.stderr
    cells = json.loads(result.stdout)["tasks"]["my"]["cells"]
    assert cells["dense"]["score"]["value"] == 100 > cells["random@0.1"]["score"]["value"]
    assert "## The dense model's answers" in (out / "table.md").read_text()
    again = run("eval", "--tasks", str(data), *options, "--resume")
    assert again.stdout == result.stdout
    # What one process of several has answered is gone on with.
    (out / "samples" / "my" / "random@0.1.jsonl").unlink()
    assert run("eval", "--tasks", str(data), *options, "--resume").stdout == result.stdout


class OtherLogits:
    """A model whose logits depend on the batch, as those of bfloat16 do, only more: up to ``most`` in batches."""

    def __init__(self, loaded: Loaded, most: float) -> None:
        self.alone, generator = 0, torch.Generator().manual_seed(0)

        def change(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            self.alone += len(output) == 1
            noise = most * torch.rand(output.shape, generator=generator)
            return output if len(output) == 1 else output + noise

        self.hook = loaded.model.lm_head.register_forward_hook(change)


@pytest.mark.parametrize("rule", [True, False])
def test_near_ties_are_asked_alone(
    rule: bool, data: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that answers are those of single rows; without the rule, batches give others."""
    method = make_method("random", retain=12)
    alone = task(data, loaded)
    with alone.answering(method) as answer:
        singles = [answer([item])[0] for item in alone.items]
    monkeypatch.setattr(near_ties, "LEAST", 6.0 if rule else 0.0)
    mine, noise = task(data, loaded), OtherLogits(loaded, 6.0)
    try:
        with mine.answering(method) as answer:
            together = answer(mine.items)
    finally:
        noise.hook.remove()
    same_text = [x.text for x in together] == [x.text for x in singles]
    assert same_text is rule and (noise.alone > 0) is rule
    if rule:
        assert [x.figures["same"] for x in together] == [x.figures["same"] for x in singles]


def test_what_a_near_tie_is() -> None:
    logits = torch.tensor([[30.0, 10.0, 0.0], [30.0, 29.7, 0.0]])
    assert near_ties.near_tie(logits, torch.bfloat16) and not near_ties.near_tie(logits, torch.float32)
    assert not near_ties.near_tie(logits[:1], torch.bfloat16)
