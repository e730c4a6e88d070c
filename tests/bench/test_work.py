"""The bare arithmetic of a schedule."""

from __future__ import annotations

import pytest
import torch

from sparsesight.bench.work import run_once, shortened
from sparsesight.shapes import Shape, random_llava
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
