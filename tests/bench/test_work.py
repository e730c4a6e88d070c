"""The bare arithmetic of a schedule."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsesight.bench.work import products, run_once, shortened
from sparsesight.profiling.op_counter import Operations
from sparsesight.random_models import Shape, random_llava
from tests.bench.small import SMALL


@pytest.mark.parametrize("lengths", [[48, 30, 30, 20], [20, 20, 20, 20]])
def test_shortened_gives_the_layers_their_lengths(lengths: list[int]) -> None:
    model, prompt = random_llava(Shape.parse(SMALL), torch.float32, "cpu")
    decoder = model.get_decoder()
    seen: list[int] = []
    with shortened(decoder, 48, lengths):
        hooks = [x.register_forward_hook(lambda m, a, out: seen.append(out.shape[1])) for x in decoder.layers]
        run_once(model, prompt, 0)
    for hook in hooks:
        hook.remove()
    assert seen == lengths
    assert not any(layer._forward_pre_hooks for layer in decoder.layers)


def test_products_are_those_of_the_layers_at_their_lengths() -> None:
    """Counted by torch: the same multiply-adds as the layers' own, and nothing but products beside the operands."""
    model, _ = random_llava(Shape.parse(SMALL), torch.float32, "cpu")
    layers, lengths = model.get_decoder().layers, [48, 30, 30, 20]
    with FlopCounterMode(display=False) as counter:
        start, end = products(layers, lengths)
    matrices = sum(w.weight.numel() for w in layers[0].modules() if isinstance(w, torch.nn.Linear))
    assert counter.get_total_flops() == 2 * sum(lengths) * matrices
    assert end.wall > start.wall
    with Operations() as found:
        products(layers, lengths)
    assert set(found.total.names) <= {
        "detach",
        "new_ones",
        "slice",
        "t",
        "mm",
        "addmm",
        "linear",
        "ones",
        "fill_",
    }
