"""The sweep with the bundled model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled, sparsify
from sparsesight.compare import prepare
from sparsesight.equal_cost import PromptSizes
from sparsesight.eval.image_task import PictureQuestions
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.eval.records import Item
from sparsesight.eval.report import write_report
from sparsesight.eval.run_dir import Config, RunFolder
from sparsesight.eval.sweep import RunSpec, cell_dict, sweep
from sparsesight.eval.task import Answering
from sparsesight.hf.loading import Loaded, load_model
from sparsesight.images import open_image
from sparsesight.methods import Method, make_method

SPARSE = [RunSpec(name, 64, make_method(name, retain=64)) for name in ("random", "sparsevlm")]
CELLS = [RunSpec("dense", None, None), *SPARSE]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model()


def items(count: int = 5) -> list[Item]:
    """Questions about the bundled pictures, of several lengths, so that a batch is padded."""
    found = [
        Item(
            id=f"{path.stem}/{i}",
            question=entry["question"],
            target=entry["answer"],
            unit=path.stem,
            tags=(entry["kind"],),
            request=lambda path=path: open_image(path),
        )
        for path in bundled.pictures()
        for i, entry in enumerate(bundled.picture_questions()[path.name])
    ]
    return found[::5][:count]


def alone(loaded: Loaded, item: Item, method: Method | None) -> tuple[str, Any]:
    """Answer and report of one question, without the sweep's code."""
    inputs = prepare(loaded, item.request(), item.question)

    def answer() -> str:
        output = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        text = loaded.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return str(text).strip()

    if method is None:
        return answer(), None
    with sparsify(loaded.model, method) as run:
        return answer(), run.report


def questions(loaded: Loaded, kind: type[PictureQuestions] = PictureQuestions) -> PictureQuestions:
    prompts = Prompts(loaded.processor, choose_setting("own", ""), frames=1, clips=False)
    return kind("scenes", items(), loaded, prompts, latency=True)


def filled(path: Path, task: PictureQuestions, resume: bool = False) -> dict[str, Any]:
    config = Config({}, {task.name: "1"}, {cell.label: cell_dict(cell) for cell in CELLS})
    with RunFolder(path, config, resume=resume) as folder:
        sweep([task], CELLS, folder, batch_size=3)
        return write_report(folder, [task], CELLS, {}, plots=False)


@pytest.fixture(scope="module")
def swept(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    filled(path, questions(loaded))
    return path


def prefill_ms(path: Path, label: str) -> float:
    """Milliseconds of a sample's prefill as the folder has them."""
    return float(
        json.loads((path / "samples" / "scenes" / f"{label}.latency.json").read_text())["prefill_ms"]
    )


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.label)
def test_samples_are_what_the_model_says_alone(swept: Path, loaded: Loaded, cell: RunSpec) -> None:
    lines = (swept / "samples" / "scenes" / f"{cell.label}.jsonl").read_text("utf-8").split("\n")[:-1]
    samples = [json.loads(line) for line in lines]
    assert [x["id"] for x in samples] == [x.id for x in items()]
    for sample, item in zip(samples, items(), strict=True):
        text, report = alone(loaded, item, cell.method)
        assert sample["answer"] == text and sample["scores"]["correct"] == (text == item.target)
        cost = sample["cost"]
        if report is None:
            assert cost["macs_sparse"] == cost["macs_dense"] and cost["equal_tokens"] == 576
            assert cost["kv_bytes_sparse"] == cost["kv_bytes_dense"]
        else:
            (one,) = report.samples
            assert (cost["macs_sparse"], cost["macs_dense"]) == (one.macs_sparse, one.macs_dense)
            assert (cost["equal_tokens"], cost["equal_tokens_entering"]) == (
                one.equal_tokens,
                one.equal_tokens_entering,
            )
            assert (cost["kv_bytes_sparse"], cost["kv_bytes_dense"]) == (
                report.kv_bytes_sparse,
                report.kv_bytes_dense,
            )


def test_summary_of_a_real_sweep(swept: Path) -> None:
    summary = json.loads((swept / "summary.json").read_text())
    cells = summary["tasks"]["scenes"]["cells"]
    assert cells["dense"]["score"]["value"] == 100  # of these questions the dense model knows all answers
    assert cells["random@64"]["cost"]["macs_sparse"] < 0.5 * cells["dense"]["cost"]["macs_sparse"]
    assert summary["tasks"]["scenes"]["units"] == len({item.unit for item in items()})
    assert set(summary["tasks"]["scenes"]["tags"]) == {tag for item in items() for tag in item.tags}
    assert all(prefill_ms(swept, cell.label) > 0 for cell in CELLS)
    assert "prefill, ms" in (swept / "table.md").read_text("utf-8")
    assert "prefill" not in json.dumps(summary)  # what varies by the clock stays out


def test_an_interrupted_real_sweep(swept: Path, loaded: Loaded, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    class Failing(PictureQuestions):
        left = 4  # batches

        @contextmanager
        def answering(self, method: Method | None) -> Iterator[Answering]:
            with super().answering(method) as answer:

                def some(batch: Any) -> Any:
                    if self.left == 0:
                        raise Interrupted
                    self.left -= 1
                    return answer(batch)

                yield some

    with pytest.raises(Interrupted):
        filled(tmp_path, questions(loaded, Failing))
    filled(tmp_path, questions(loaded), resume=True)
    for name in ("summary.json", *(f"samples/scenes/{cell.label}.jsonl" for cell in CELLS)):
        assert (tmp_path / name).read_bytes() == (swept / name).read_bytes()


def test_the_model_is_left_as_it_was(loaded: Loaded) -> None:
    before = alone(loaded, items()[0], None)
    task = questions(loaded)
    with pytest.raises(ZeroDivisionError), task.answering(SPARSE[0].method):
        raise ZeroDivisionError
    assert alone(loaded, items()[0], None) == before
    with sparsify(loaded.model, "random"):
        pass  # it would refuse a model that is still sparsified


def test_sizes_of_prompts(loaded: Loaded) -> None:
    sizes = questions(loaded).sizes(items())
    for size, item in zip(sizes, items(), strict=True):
        ids = prepare(loaded, item.request(), item.question)["input_ids"][0].tolist()
        picture = [i for i, token in enumerate(ids) if token == loaded.model.config.image_token_id]
        assert size == PromptSizes(len(picture), len(ids) - picture[-1] - 1, picture[0])


def test_trimming_shows_in_what_is_cached(loaded: Loaded) -> None:
    """As a run without the sweep reports it: first layers hold what left the first stage, and costs say so."""
    prompts = Prompts(loaded.processor, choose_setting("own", ""), frames=1, clips=False)
    task = PictureQuestions("scenes", items(1), loaded, prompts, trim_early_layers=True)
    method = make_method("sparsevlm+", retain=64)
    with task.answering(method) as answer:
        (said,) = answer(task.items)
    inputs = prepare(loaded, task.items[0].request(), task.items[0].question)
    with sparsify(loaded.model, method, trim_early_layers=True) as run:
        loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert said.cost["kv_bytes_sparse"] == run.report.kv_bytes_sparse
    with sparsify(loaded.model, method) as run:
        loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert said.cost["kv_bytes_sparse"] < run.report.kv_bytes_sparse


def test_every_batch_has_its_own_prefill(loaded: Loaded) -> None:
    """And only that: neither the decoding steps after it nor the batch before."""
    task = questions(loaded)
    decoder = loaded.model.get_decoder()
    seen: list[str] = []

    def passed(module: Any, args: Any, kwargs: Any) -> None:
        seen.append("prefill" if kwargs["inputs_embeds"].shape[1] > 1 else "step")
        time.sleep(0.2 if seen[-1] == "prefill" else 0.02)

    with task.answering(None) as answer:
        hook = decoder.register_forward_pre_hook(passed, with_kwargs=True)
        try:
            for batch in (task.items[:1], task.items[1:3]):
                start = time.perf_counter()
                ms = [x.prefill_ms for x in answer(batch)]
                whole = 1e3 * (time.perf_counter() - start)
                assert len(set(ms)) == 1 and ms[0] is not None
                steps = 20 * seen.count("step")
                assert 200 <= len(batch) * ms[0] <= whole - steps
                assert seen.count("prefill") == 1 and steps > 0
                seen.clear()
        finally:
            hook.remove()
