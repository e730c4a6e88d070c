"""The benchmark measures what it says: shapes, rows, and the same work without a mechanism. No test looks at speed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sparsesight import SparseSightError, sparsify
from sparsesight.bench import PREFILL, Times, bench, run_once, shortened, timed_decoder
from sparsesight.cli import app
from sparsesight.hf.families import anatomy
from sparsesight.hf.shape import decoder_shape
from sparsesight.metrics import DecoderShape
from sparsesight.shapes import Shape, random_llava, repeat_prompt

SMALL = "layers=4,hidden=64,ffn=96,visual=36,text=12"
FIELDS = {
    "retain", "prefill_dense_ms", "prefill_sparse_ms", "prefill_speedup", "flops_limit", "prefill_ratio_to_limit",
    "overhead_share", "decode_dense_ms", "decode_sparse_ms", "kv_dense_bytes", "kv_sparse_bytes",
    "peak_dense_bytes", "peak_sparse_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> tuple[Any, dict[str, Any]]:
    return random_llava(Shape.parse(SMALL), torch.float32, "cpu")


@pytest.mark.parametrize("visual", [36, 50, 2880])
def test_random_llava_has_the_asked_shape(visual: int) -> None:
    shape = Shape.parse(f"layers=3,hidden=128,ffn=64,visual={visual},text=20,heads=4,kv_heads=2")
    model, prompt = random_llava(shape, torch.float32, "cpu")
    expected = DecoderShape.llama(3, 128, 64, 4, 2, kv_bytes=4)
    assert decoder_shape(anatomy(model)) == expected
    assert prompt["input_ids"].shape == (1, visual + 20) and int((prompt["input_ids"] == 999).sum()) == visual
    with sparsify(model, retain=0.5, layers=(0,)) as run:
        run_once(model, prompt, 2)
    assert run.report.samples[0].visual_tokens == visual


@pytest.mark.parametrize(
    "text",
    [
        "layers",
        "layers=",
        "layers=x",
        "layers=0",
        "depth=3",
        "hidden=65",
        "heads=3",
        "layers=1",
        "hidden=64,heads=64",
    ],
)
def test_bad_shapes(text: str) -> None:
    with pytest.raises(SparseSightError, match="shape"):
        Shape.parse(text)


def test_rows(small: tuple[Any, dict[str, Any]]) -> None:
    model, prompt = small
    ticks: list[int] = []
    rows = bench(
        model,
        repeat_prompt(prompt, 2),
        [0.5, 12],
        options={"layers": (0, 1)},
        repeats=2,
        steps=3,
        progress=lambda: ticks.append(1),
    )
    assert [row["retain"] for row in rows] == [0.5, 12] and len(ticks) == 3 * 5
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["prefill_ratio_to_limit"] == pytest.approx(row["prefill_speedup"] / row["flops_limit"])
        assert row["kv_sparse_bytes"] < row["kv_dense_bytes"] and row["flops_limit"] > 1
        assert row["kv_sparse_bytes"] < row["peak_sparse_bytes"] < row["peak_dense_bytes"]
        assert 0 < row["overhead_share"] < 1
        assert row["overhead_share"] == pytest.approx(sum(row["overhead_parts"].values()))
        assert all(row["spread"][k]["min"] <= row[k] <= row["spread"][k]["max"] for k in row["spread"])
    with sparsify(model, retain=12, layers=(0, 1)) as run:
        run_once(model, prompt, 0)
    sample = run.report.samples[0]
    assert rows[1]["flops_limit"] == pytest.approx(
        sample.flops_dense / (sample.flops_sparse - sample.flops_scoring)
    )
    assert not hasattr(model.get_decoder(), "_sparsesight_hooks")


def test_nothing_to_measure(small: tuple[Any, dict[str, Any]]) -> None:
    with pytest.raises(SparseSightError, match=r"retain=1\.0"):
        bench(*small, [1.0])


def test_decoding_and_prefill_are_told_apart(small: tuple[Any, dict[str, Any]]) -> None:
    model, prompt = small
    times = Times()
    with timed_decoder(model.get_decoder(), times):
        cache = run_once(model, prompt, 3)
    assert len(times.wall[PREFILL]) == 1 and len(times.cpu["decode"]) == 3
    assert cache.get_seq_length() == 48 + 3


def test_shortened_gives_the_layers_their_lengths(small: tuple[Any, dict[str, Any]]) -> None:
    model, prompt = small
    decoder = model.get_decoder()
    seen: list[int] = []
    with shortened(decoder, [48, 30, 30, 20]):
        hooks = [x.register_forward_hook(lambda m, a, out: seen.append(out.shape[1])) for x in decoder.layers]
        run_once(model, prompt, 0)
    for hook in hooks:
        hook.remove()
    assert seen == [48, 30, 30, 20]
    assert not any(layer._forward_pre_hooks for layer in decoder.layers)


def test_command_prints_json() -> None:
    how = [
        "--retain",
        "0.5,12",
        "--layers",
        "0,1",
        "--repeats",
        "1",
        "--steps",
        "2",
        "--batch",
        "2",
        "--json",
    ]
    result = CliRunner().invoke(app, ["bench", "--shape", SMALL, *how])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert set(data) == {"config", "rows"} and len(data["rows"]) == 2 and data["rows"][0].keys() >= FIELDS
    assert data["config"]["batch"] == 2 and data["config"]["torch"] == torch.__version__


def test_command_prints_a_table_for_the_bundled_model() -> None:
    result = CliRunner().invoke(
        app, ["bench", "--retain", "0.5", "--repeats", "1", "--steps", "1", "--threads", "1"]
    )
    assert result.exit_code == 0, result.stderr
    assert "FLOPs" in result.stdout and "of the prefill, raters" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "layers=4,hiden=64"], "hiden=64"),
        (["--shape", SMALL, "--model", "x"], "--model and --shape"),
        (["--retain", ","], "at least one budget"),
        (["--retain", "many"], "is no budget"),
        (["--method", "fastest"], "fastest"),
        (["--shape", SMALL, "--layers", "1,2", "--retain", "1"], "possible are"),
        (["--shape", SMALL, "--dtype", "int8"], "int8"),
        (["--shape", SMALL, "--device", "tpu0"], "tpu0"),
    ],
)
def test_command_refuses_in_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2 and not result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
