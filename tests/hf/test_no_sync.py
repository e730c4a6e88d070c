"""The layer loop never waits for the device: every length follows from the schedule, known on the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import METHODS, SparseVLM, sparsify
from sparsesight.core.budget import BEFORE
from tests.hf.test_invariants import batch, generate, model
from tests.host_reads import HostRead


def watch(built: Any, forbid: Any) -> None:
    layers = built.get_decoder().layers
    forbid(layers[0], layers[-1])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", METHODS)
def test_planned_counts_never_read_the_device(name: str, attention: str, forbid_reads_in_layers: Any) -> None:
    """Methods that act before the first layer are made to act after one, where they are watched."""
    built = model("llava_next", attention)
    layers = (1,) if METHODS[name].depths[0] == BEFORE else None
    with sparsify(built, name, retain=0.4, layers=layers) as run:
        watch(built, forbid_reads_in_layers)
        generate(built, batch("llava_next"))
        assert run.kept


@pytest.mark.parametrize("method", ["sparsevlm", "sparsevlm+"])
def test_neither_do_frames_and_trimming(method: str, forbid_reads_in_layers: Any) -> None:
    built = model("llava_next")
    with sparsify(built, method, retain=0.4, per_frame=True, trim_early_layers=True) as run:
        watch(built, forbid_reads_in_layers)
        generate(built, batch("llava_next"))
        assert run.kept and len(set(run.report.kv_lengths[: run.layers[0] + 2])) == 1


def test_the_rank_rule_reads_it_once_per_stage(forbid_reads_in_layers: Any) -> None:
    """And so the guard works: v1.0's counts depend on data."""
    built = model("llava")
    with sparsify(built, SparseVLM(1.0, (1, 3), adaptive=True, scale=3.0)):
        watch(built, forbid_reads_in_layers)
        with pytest.raises(HostRead, match="tolist"):
            generate(built, batch("llava"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_no_sync_in_the_layers() -> None:
    built = model("llava_next").to("cuda")
    prompt = {k: v.to("cuda") for k, v in batch("llava_next").items()}
    layers = built.get_decoder().layers
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        built(**prompt)
        hooks = [
            layers[0].register_forward_pre_hook(lambda *a: torch.cuda.set_sync_debug_mode("error")),
            layers[-1].register_forward_hook(lambda *a: torch.cuda.set_sync_debug_mode("default")),
        ]
        try:
            built(**prompt)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            for hook in hooks:
                hook.remove()
        assert run.kept
    built.to("cpu")
