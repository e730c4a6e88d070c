"""The hooks and the metadata of a step, on a decoder of stand-ins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from sparsesight import (
    DivPrune,
    FastV,
    PyramidDrop,
    Random,
    SparseSightError,
    SparseVLM,
    SparseVLMPlus,
    ToMe,
    Uniform,
    UnsupportedModelError,
)
from sparsesight.methods import Method
from sparsesight.vllm.layer_attention import check_layer
from sparsesight.vllm.planner import NOTHING, Planner
from sparsesight.vllm.pruner import Pruner
from sparsesight.vllm.stats import Tally

from ..host_reads import HostRead
from .made_decoder import (
    LENGTH,
    VISUAL,
    WIDTH,
    Builder,
    Decoder,
    Layer,
    MRotaryEmbedding,
    begin,
    context,
    hooked,
    installed,
    planned,
)
from .test_metadata import BLOCKS, SIZE, common
from .test_planner import step


@pytest.mark.parametrize("method", [SparseVLMPlus, SparseVLM, FastV, PyramidDrop, Random])
def test_a_pruning_step_never_waits_for_the_device(
    method: type[Method],
    forbid_reads_in_layers: Any,
) -> None:
    pruner, decoder = installed(method((3,), (0,)))
    begin(pruner, context([LENGTH, 1], [LENGTH, 6]), (LENGTH, 0, planned(pruner)), (1, 5, NOTHING))
    forbid_reads_in_layers(decoder.layers[0], decoder.norm)
    decoder(torch.tensor([*range(LENGTH), 5]), torch.randn(LENGTH + 1, WIDTH))
    assert pruner.active is not None and pruner.active.done == 1
    # And so the guard works: a method that reads a score is caught.
    real = pruner.active.prefills[0].select
    pruner.active.done, pruner.active.prefills[0].select = (
        0,
        lambda *given: (given[2].sum().item(), real(*given))[1],
    )
    with pytest.raises(HostRead, match="item"):
        decoder(torch.tensor([*range(LENGTH), 5]), torch.randn(LENGTH + 1, WIDTH))


def test_a_step_of_texts_changes_nothing() -> None:
    pruner, decoder = installed()
    ctx = context([5, 1, 2], [5, 6, 2])
    metadata, slots = ctx.attn_metadata, ctx.slot_mapping
    begin(pruner, ctx, (5, 0, NOTHING), (1, 5, NOTHING), (2, 0, NOTHING))
    assert ctx.attn_metadata is metadata and ctx.slot_mapping is slots and pruner.active is None
    positions, hidden = torch.arange(8), torch.randint(-9, 9, (8, WIDTH)).float()
    assert not hooked(decoder)
    torch.testing.assert_close(decoder(positions, hidden), hidden + 3 * positions[:, None], rtol=0, atol=0)
    assert pruner.tally == Tally()


def test_layers_with_block_tables_of_their_own_read_their_own() -> None:
    pruner, _ = installed()
    ctx = context([LENGTH], [LENGTH])
    own = Builder().build_stage(common([LENGTH], [LENGTH]))
    own.sparsesight_common.block_table_tensor = BLOCKS.flip(0)
    ctx.attn_metadata["layer2"] = own
    begin(pruner, ctx, (LENGTH, 0, planned(pruner)))
    first, second = (ctx.attn_metadata[name].sparsesight_common for name in ("layer1", "layer2"))
    assert first.seq_lens.tolist() == second.seq_lens.tolist() == [LENGTH - SIZE]
    for made, table in ((first, BLOCKS), (second, BLOCKS.flip(0))):
        assert made.slot_mapping.tolist() == [*range(SIZE), *range(2 * SIZE, LENGTH)]
        assert made.block_table_tensor[0, :2].tolist() == table[0, [0, 2]].tolist()
    assert ctx.slot_mapping["layer2"] is second.slot_mapping


@pytest.mark.parametrize("axes", [1, 3])
def test_a_prompt_is_shortened_and_comes_back_at_its_length(axes: int) -> None:
    pruner, decoder = installed()
    # One decoding request before the prompt and a text behind it; one row of padding.
    plan = planned(pruner)
    ctx = context([1, LENGTH, 3], [6, LENGTH, 3])
    begin(pruner, ctx, (1, 5, NOTHING), (LENGTH, 0, plan), (3, 0, NOTHING))
    assert ctx.attn_metadata["layer0"].sparsesight_common.seq_lens.tolist() == [6, LENGTH, 3]
    for name in ("layer1", "layer2"):
        assert ctx.attn_metadata[name].sparsesight_common.seq_lens.tolist() == [6, LENGTH - SIZE, 3]
        assert len(ctx.slot_mapping[name]) == LENGTH
    positions = torch.tensor([5, *range(LENGTH), *range(3), 0])
    hidden = torch.randint(-9, 9, (LENGTH + 5, WIDTH)).float()
    assert hooked(decoder)
    out = decoder(positions if axes == 1 else torch.stack((positions * 0, positions + 9, positions)), hidden)
    left, again = (decoder.layers[i].seen[0].tolist() for i in (1, 2))
    assert len(left) == LENGTH and left == again
    kept = [p for p in left[1 : 1 + LENGTH - SIZE] if 1 <= p <= VISUAL]
    assert len(kept) == VISUAL - SIZE and left == [5, 0, *kept, LENGTH - 2, LENGTH - 1, 0, 1, 2]
    full = hidden + 3 * positions[:, None]
    rows = [0, 1, *(1 + p for p in kept), *range(LENGTH - 1, LENGTH + 4)]
    torch.testing.assert_close(out[rows], full[rows], rtol=0, atol=0)
    gone = [row for row in range(LENGTH + 5) if row not in rows]
    assert not out[gone].any()
    pruner.end()
    assert not hooked(decoder)
    # The next step of that request goes on in its own slots.
    ctx = context([1, 1, 1], [7, LENGTH + 1, 4])
    slots = ctx.slot_mapping["layer1"]
    begin(pruner, ctx, (1, 6, NOTHING), (1, LENGTH, plan), (1, 3, NOTHING))
    assert ctx.attn_metadata["layer1"].sparsesight_common.seq_lens.tolist() == [7, LENGTH + 1 - SIZE, 4]
    assert ctx.attn_metadata["layer0"].sparsesight_common.seq_lens.tolist() == [7, LENGTH + 1, 4]
    assert ctx.slot_mapping["layer1"] is slots
    assert pruner.active is None and pruner.tally == Tally(pruned=1)


@pytest.mark.parametrize("method", [DivPrune((4,)), ToMe((4,)), Uniform((4,))], ids=str)
def test_before_the_first_layer_every_layer_is_shortened(method: Method, forbid_reads_in_layers: Any) -> None:
    pruner, decoder = installed(method)
    ctx = context([1, LENGTH], [6, LENGTH])
    begin(pruner, ctx, (1, 5, NOTHING), (LENGTH, 0, planned(pruner)))
    for name in ("layer0", "layer1", "layer2"):
        assert ctx.attn_metadata[name].sparsesight_common.seq_lens.tolist() == [6, LENGTH - SIZE]
        assert len(ctx.slot_mapping[name]) == LENGTH + 1 - SIZE
    forbid_reads_in_layers(decoder.layers[0], decoder.norm)
    hidden = torch.randn(LENGTH + 1, WIDTH)
    out = decoder(torch.tensor([5, *range(LENGTH)]), hidden)
    seen = [layer.seen[0].tolist() for layer in decoder.layers]
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == LENGTH + 1 - SIZE
    assert seen[0][:2] == [5, 0] and seen[0][-2:] == [LENGTH - 2, LENGTH - 1]
    left = [1 + p for p in seen[0][1:]]
    if not isinstance(method, ToMe):
        full = hidden[left] + 3 * torch.tensor(seen[0][1:])[:, None]
        torch.testing.assert_close(out[left], full)
    assert not out[[row for row in range(1, LENGTH + 1) if row not in left]].any()


@pytest.mark.parametrize(
    ("extra_args", "tally"),
    [({"sparsesight_retain": "none"}, Tally()), ({"sparsesight_retain": -1}, Tally(refused=1))],
)
def test_a_request_that_asks_otherwise_is_kept(extra_args: Any, tally: Tally) -> None:
    pruner, _ = installed()
    ctx = context([LENGTH], [LENGTH])
    metadata = ctx.attn_metadata
    begin(pruner, ctx, (LENGTH, 0, planned(pruner, extra_args=extra_args)))
    assert ctx.attn_metadata is metadata and pruner.tally == tally


def test_regions_longer_than_a_step_are_counted_and_said_ever_more_rarely(said: Any) -> None:
    pruner, _ = installed()
    pruner.planner = replace(pruner.planner, longest=VISUAL)
    for i in range(101):
        planned(pruner, name=f"no {i}")
    assert pruner.tally == Tally(too_long=101)
    assert said.messages == [
        f"request no {n - 1}: pictures are kept whole, as with their question they are longer than a step: pass a "
        f"larger --max-num-batched-tokens ({n} so far)"
        for n in (1, 10, 100)
    ]


def test_a_budget_that_was_lifted_is_said(said: Any) -> None:
    decoder = Decoder()
    pruner = Pruner(Planner(Random(1, (1,)), (1,), 3), decoder)
    pruner.install(lambda attention, stage: None)
    for _ in range(11):
        ctx = context([93], [93])
        ctx.attn_metadata["layer2"].sparsesight_common.block_table_tensor = torch.zeros(1, 24).int()
        begin(pruner, ctx, (93, 0, planned(pruner, 90)))
        pruner.end()
    assert pruner.tally == Tally(pruned=11, lifted=11)
    assert len(said.messages) == 2
    assert said.messages[0].startswith(
        "request request 0 is pruned to 31 visual tokens on average, as its pictures cannot meet the server's "
        "budget: retain=1 of 90 visual tokens cannot be met"
    )
    assert said.messages[0].endswith("a ratio fits pictures of any size (1 so far)")
    assert said.messages[1].endswith("(10 so far)")


def test_steps_without_a_pruned_request_pass_at_once() -> None:
    pruner, _ = installed()
    for plans, passes in (([], True), ([NOTHING], True), ([NOTHING, planned(pruner)], False)):
        pruner.note()
        assert pruner.passes(plans) is passes
        pruner.told = True


def test_a_step_that_replays_a_graph_writes_the_tables_also_of_texts() -> None:
    pruner, decoder = installed()
    ctx = context([1, 1], [6, 7])
    pruner.note()
    assert not pruner.passes([NOTHING, NOTHING], recorded=True)
    pruner.begin(step((1, 5, NOTHING), (1, 6, NOTHING)), str, ctx, recorded=True)
    dense, own = ctx.attn_metadata["layer0"], ctx.attn_metadata["layer1"]
    assert own.sparsesight_common.seq_lens.tolist() == [6, 7]
    assert own.sparsesight_common.seq_lens.data_ptr() == dense.sparsesight_tables.lengths.data_ptr()
    assert pruner.active is None and not hooked(decoder)


def test_a_rehearsal_prunes_without_metadata() -> None:
    pruner, decoder = installed(SparseVLMPlus((4,), (0,)))
    pruner.note()
    pruner.rehearse(step((LENGTH, 0, planned(pruner))))
    decoder(torch.arange(LENGTH), torch.randn(LENGTH, WIDTH))
    assert len(decoder.layers[1].seen[0]) == LENGTH - SIZE
    pruner.end()
    pruner.note()  # it counts as told
    assert not hooked(decoder)


def test_a_runner_that_never_begins_a_step_is_noticed() -> None:
    pruner, _ = installed()
    pruner.note()
    with pytest.raises(SparseSightError, match="does not call sparsesight"):
        pruner.note()


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"self_attn\.attn"):
        check_layer(nn.Linear(1, 1))
    uncounted = Layer(0)
    del uncounted.self_attn.total_num_kv_heads
    with pytest.raises(UnsupportedModelError, match="total_num_kv_heads"):
        check_layer(uncounted)
    windowed = Layer(0)
    windowed.self_attn.attn.sliding_window = 128
    with pytest.raises(UnsupportedModelError, match="window of 128"):
        check_layer(windowed)
    scaled = Layer(0)
    scaled.self_attn.rotary_emb = nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"Identity.*RotaryEmbedding"):
        check_layer(scaled)
    scaled.self_attn.rotary_emb = MRotaryEmbedding()
    check_layer(scaled)
    scaled.self_attn.rotary_emb.scaling_factor = 4.0
    with pytest.raises(UnsupportedModelError, match=r"YaRN \(factor 4.0\)"):
        check_layer(scaled)
