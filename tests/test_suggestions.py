"""Wrong names are answered with the nearest right one, wherever a name is taken."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight import SparseSightError, methods
from sparsesight.eval.prompts import choose_setting
from sparsesight.methods import make_method
from sparsesight.random_models import Shape
from sparsesight.scenes.dataset import examples
from sparsesight.suggestions import did_you_mean
from tests.commands.command_line import plain_surroundings, refused, run  # noqa: F401


def test_the_nearest_name() -> None:
    assert did_you_mean("fastvv", ["dart", "fastv", "tome"]) == "; did you mean 'fastv'?"
    assert did_you_mean("FASTV", ["dart", "fastv"]) == "; did you mean 'fastv'?"
    assert did_you_mean("Sparse", {"SparseVLM": "sparsevlm"}) == "; did you mean 'sparsevlm'?"
    assert did_you_mean("flex", ["sdpa", "flex_attention"]) == "; did you mean 'flex_attention'?"
    for name in ("zzz", "", 3, None):
        assert did_you_mean(name, ["dart", "fastv"]) == ""
    assert did_you_mean("fastv", []) == ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("fastvv", "fastv"),
        ("sparsevlmplus", "sparsevlm+"),
        ("sparsevlm_plus", "sparsevlm+"),
        ("SparseVLMPlus", "sparsevlm+"),
        ("SparseVLM", "sparsevlm"),
        ("LastToken", "last-token"),
        ("pyramid_drop", "pyramiddrop"),
        ("vision-zip", "visionzip"),
    ],
)
def test_methods(written: str, meant: str) -> None:
    with pytest.raises(SparseSightError, match=r"is unknown; known are") as caught:
        make_method(written)
    assert str(caught.value).endswith(f"did you mean {meant!r}?")


def test_options_of_a_method() -> None:
    with pytest.raises(SparseSightError, match=r"did you mean 'retain'\?$"):
        make_method("fastv", retian=64)
    with pytest.raises(SparseSightError, match=r"did you mean 'per_frame'\?$"):
        methods.parse("fastv(perframe=True)")


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: choose_setting("llava1.5", "x"), "llava-1.5"),
        (lambda: Shape.parse("layer=24"), "layers"),
        (lambda: examples("tset"), "test"),
    ],
)
def test_other_names(call: Any, meant: str) -> None:
    with pytest.raises(SparseSightError) as caught:
        call()
    assert f"did you mean {meant!r}?" in str(caught.value)


def test_arguments_of_the_model_that_lmms_eval_runs() -> None:
    pytest.importorskip("lmms_eval")
    from sparsesight.eval.lmms.model import SparseSightModel

    with pytest.raises(SparseSightError, match=r"'batchsize'.*did you mean 'batch_size'\?$"):
        SparseSightModel(batchsize=4)


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["bnch"], "'bench'"),
        (["ask", "--retian", "64"], "'--retain'"),
        (["ask", "--methd", "fastv"], "'--method'"),
        (["ask", "--method", "fastvv"], "'fastv'"),
        (["ask", "--dtype", "floatt32"], "'float32'"),
        (["bench", "--shape", "layer=24"], "'layers'"),
        (["bench", "--shape", "layers=8", "--attention", "flex"], "'flex_attention'"),
        (["eval", "--tasks", "scene"], "'scenes'"),
        (["eval", "--tasks", "scenes", "--methods", "sparsevlmplus"], "'sparsevlm+'"),
    ],
)
def test_on_the_command_line(args: list[str], meant: str) -> None:
    said = refused(run(*args))
    assert f"id you mean {meant}?" in said, said
