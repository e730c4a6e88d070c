"""One prompt's way through a stage, against the attention written out by hand."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsesight import FastV, LastToken, SparseVLM, SparseVLMPlus
from sparsesight.methods import Method
from sparsesight.vllm.config import RequestBudget
from sparsesight.vllm.layer_attention import LayerFacts, Seen, rotary_axis
from sparsesight.vllm.planner import Planner
from sparsesight.vllm.prefill import Prefill
from sparsesight.vllm.step_plan import Prompt

BEFORE, VISUAL, TEXT, GENERATED = 3, 12, 5, 2
LENGTH = BEFORE + VISUAL + TEXT + GENERATED
HEADS, GROUPS, SIZE, WIDTH = 4, 2, 8, 16
FACTS = LayerFacts(HEADS, GROUPS, SIZE, SIZE**-0.5, None, 10.0 ** -torch.arange(SIZE // 2))


def prefill(method: Method, layers: tuple[int, ...]) -> Prefill:
    visual = np.zeros(LENGTH - GENERATED, dtype=bool)
    visual[BEFORE : BEFORE + VISUAL] = True
    plan = Planner(method, layers, 8).plan(RequestBudget(method, named=True), visual, None)
    made = Prompt(0, 0, LENGTH, 0, plan, range(1))
    return Prefill.of([made], layers, torch.device("cpu"), record=True)


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return (
        torch.randn(LENGTH, WIDTH, generator=generator),
        torch.randn(LENGTH, HEADS * SIZE, generator=generator),
        torch.randn(LENGTH, GROUPS * SIZE, generator=generator),
    )


def choose(
    one: Prefill,
    index: int,
    hidden: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    position: torch.Tensor,
    facts: LayerFacts,
    cached: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return one.select(index, [0], hidden, None, position, Seen(query, key, facts, [cached]))


def attention_of_row(row: int, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Softmax attention [heads, row + 1] of one row over the rows up to it."""
    q = query[row].view(HEADS, SIZE)
    k = key[: row + 1].view(row + 1, GROUPS, SIZE)
    logits = torch.stack([k[:, h // (HEADS // GROUPS)] @ q[h] for h in range(HEADS)]) / math.sqrt(SIZE)
    return logits.softmax(-1)


def test_the_last_token_of_the_prompt_judges_not_the_last_generated_one() -> None:
    hidden, query, key = tensors()
    one = prefill(LastToken((5,), (1,)), (1,))
    one.rate(hidden, torch.arange(LENGTH))
    rows, merged, shorter = choose(one, 0, hidden, query, key, torch.arange(LENGTH), FACTS)
    score = attention_of_row(LENGTH - GENERATED - 1, query, key).mean(0)[BEFORE : BEFORE + VISUAL]
    best = (score.topk(5).indices.sort().values + BEFORE).tolist()
    expected = [*range(BEFORE), *best, *range(BEFORE + VISUAL, LENGTH)]
    assert rows.tolist() == expected and not merged.any()
    torch.testing.assert_close(shorter, hidden[rows], rtol=0, atol=0)
    other = attention_of_row(LENGTH - 1, query, key).mean(0)[BEFORE : BEFORE + VISUAL]
    assert (other.topk(5).indices.sort().values + BEFORE).tolist() != best  # the test can fail


def test_raters_are_chosen_from_what_enters_the_first_layer() -> None:
    hidden, query, key = tensors()
    one = prefill(SparseVLM((5,), (1,), recycle=0.0), (1,))
    one.rate(hidden, torch.arange(LENGTH))
    visual = hidden[BEFORE : BEFORE + VISUAL]
    text = hidden[BEFORE + VISUAL : BEFORE + VISUAL + TEXT]
    share = (visual @ text.T).softmax(1).mean(0)
    raters = [i for i in range(TEXT) if share[i] > share.mean()]
    assert 0 < len(raters) < TEXT
    first = BEFORE + VISUAL
    score = torch.stack([attention_of_row(first + i, query, key)[:, :first].mean(0) for i in raters]).mean(0)
    best = (score[BEFORE:first].topk(5).indices.sort().values + BEFORE).tolist()
    rows, _, _ = choose(one, 0, hidden, query, key, torch.arange(LENGTH), FACTS)
    assert rows.tolist() == [*range(BEFORE), *best, *range(first, LENGTH)]


def test_a_second_stage_sees_what_the_first_left() -> None:
    hidden, query, key = tensors()
    one = prefill(LastToken((8, 3), (1, 2)), (1, 2))
    first, _, shorter = choose(one, 0, hidden, query, key, torch.arange(LENGTH), FACTS)
    q, k, position = query.flip(0)[first], key.flip(0)[first], torch.arange(LENGTH)[first]
    second, _, _ = choose(one, 1, shorter, q, k, position, FACTS)
    last = len(first) - GENERATED - 1
    score = attention_of_row(last, q, k).mean(0)[BEFORE : BEFORE + 8]
    best = (score.topk(3).indices.sort().values + BEFORE).tolist()
    assert second.tolist() == [*range(BEFORE), *best, *range(BEFORE + 8, len(first))]
    ((_, record),) = one.samples()
    assert record.layer == 2 and record.kept.nonzero()[0].tolist() == [first[x] - BEFORE for x in best]


def test_merged_tokens_stand_at_their_cluster_centre() -> None:
    hidden, query, key = tensors()
    method = SparseVLM((4,), (1,))
    one = prefill(method, (1,))
    one.rate(hidden, torch.arange(LENGTH))
    rows, merged, shorter = choose(one, 0, hidden, query, key, torch.arange(LENGTH), FACTS)
    stage = one.prompts[0].pruned[0].schedule.stages[0]
    assert stage.merged > 0 and int(merged.sum()) == stage.merged
    assert len(rows) == LENGTH - VISUAL + stage.keep + stage.merged
    assert rows.tolist() == sorted(set(rows.tolist()))
    torch.testing.assert_close(shorter[~merged], hidden[rows][~merged], rtol=0, atol=0)
    at = rows[merged]
    assert ((at >= BEFORE) & (at < BEFORE + VISUAL)).all()
    # A cluster of one is its token; with more, the mean is another vector.
    if stage.recycled > stage.merged:
        assert not torch.equal(shorter[merged], hidden[at])


@pytest.mark.parametrize("method", [SparseVLMPlus((6, 4), (1, 2)), SparseVLMPlus((12, 7), (1, 2))])
def test_counts_are_those_of_the_schedule(method: Method) -> None:
    hidden, query, key = tensors()
    one = prefill(method, (1, 2))
    one.rate(hidden, torch.arange(LENGTH))
    position = torch.arange(LENGTH)
    for index, stage in enumerate(one.prompts[0].pruned[0].schedule.stages):
        rows, _, hidden = choose(one, index, hidden, query, key, position, FACTS)
        query, key, position = query[rows], key[rows], position[rows]
        assert len(rows) == LENGTH - VISUAL + stage.keep


@pytest.mark.parametrize(
    "method", [SparseVLMPlus((4,), (1,)), SparseVLM((4,), (1,)), FastV((4,), (1,))], ids=str
)
def test_the_tokens_before_may_have_been_computed_earlier(method: Method) -> None:
    """Their keys take part in the softmax; their hidden states are not there."""
    hidden, query, key = tensors()
    key[:BEFORE] *= 9  # keys that count
    whole = prefill(method, (1,))
    whole.rate(hidden, torch.arange(LENGTH))
    expected, _, shorter = choose(whole, 0, hidden, query, key, torch.arange(LENGTH), FACTS)
    prompt = Prompt(0, 0, LENGTH - BEFORE, BEFORE, whole.prompts[0].plan, range(1))

    def chosen(cached: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        one = Prefill.of([prompt], (1,), torch.device("cpu"))
        one.rate(hidden[BEFORE:], torch.arange(BEFORE, LENGTH))
        now = (x[BEFORE:] for x in (hidden, query, key, torch.arange(LENGTH)))
        rows, _, left = choose(one, 0, *now, FACTS, cached)
        return (rows + BEFORE).tolist(), left

    rows, left = chosen(key[:BEFORE])
    assert rows == expected[BEFORE:].tolist()
    torch.testing.assert_close(left, shorter[BEFORE:], rtol=0, atol=1e-6)


def test_the_axes_of_frequencies() -> None:
    def axis(sections: list[int] | None, turns: bool = False) -> list[int] | None:
        found = rotary_axis(SimpleNamespace(mrope_section=sections, mrope_interleaved=turns))
        return None if found is None else found.tolist()

    assert rotary_axis(None) is None and rotary_axis(object()) is None and axis(None) is None
    assert axis([2, 1, 1]) == [0, 0, 1, 2]
    assert axis([4, 2, 2], True) == [0, 1, 2, 0, 1, 2, 0, 0]
    assert axis([2, 3, 1], True) == [0, 1, 2, 0, 1, 0]


def test_positions_have_several_axes() -> None:
    hidden, query, key = tensors()

    def kept(position: torch.Tensor, axis: int | None) -> list[int]:
        one = prefill(SparseVLMPlus((4,), (1,)), (1,))
        one.rate(hidden, torch.arange(LENGTH))
        of = None if axis is None else torch.full((SIZE // 2,), axis)
        rows, _, _ = choose(one, 0, hidden, query, key, position, replace(FACTS, rotary_axis=of))
        return rows.tolist()

    time, height = torch.arange(LENGTH), torch.arange(LENGTH) // 4
    positions = torch.stack((time, height, height.flip(0)))
    for axis in (0, 1):
        assert kept(positions, axis) == kept(positions[axis], None)
    assert kept(time, None) != kept(height, None)  # the test can fail


@pytest.mark.parametrize(
    "method", [SparseVLMPlus((4,), (1,), heads=1), FastV((4,), (1,)), SparseVLM((4,), (1,))]
)
@pytest.mark.parametrize(("ranks", "copies"), [(2, 1), (4, 2)], ids=["own keys", "shared keys"])
def test_every_rank_chooses_by_the_heads_of_all(method: Method, ranks: int, copies: int) -> None:
    hidden, query, key = tensors()
    query[:, (HEADS - 1) * SIZE :] *= 6  # the last head, on the last rank, sees most
    position = torch.arange(LENGTH)

    def choice(facts: LayerFacts, q: torch.Tensor, k: torch.Tensor) -> list[int]:
        one = prefill(method, (1,))
        one.rate(hidden, torch.arange(LENGTH))
        rows, _, _ = choose(one, 0, hidden, q, k, position, facts)
        chosen: list[int] = rows.tolist()
        return chosen

    queries = query.chunk(ranks, 1)
    keys = [part for part in key.chunk(ranks // copies, 1) for _ in range(copies)]

    def gather(own: torch.Tensor) -> torch.Tensor:
        """As vLLM's: what all ranks pass in, side by side."""
        last = BEFORE + VISUAL + TEXT
        texts = [q[BEFORE + VISUAL : last] for q in queries]
        return torch.cat(texts if len(own) == TEXT else keys, 1)

    expected = choice(FACTS, query, key)
    for q, k in zip(queries, keys, strict=True):
        assert choice(replace(FACTS, gather=gather), q, k) == expected
    alone = replace(FACTS, heads=HEADS // ranks, kv_heads=GROUPS // (ranks // copies))
    assert choice(alone, queries[0], keys[0]) != expected  # by its own heads a rank would choose otherwise


def test_the_facts_of_a_layer_count_the_heads_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    impl = SimpleNamespace(scale=0.5, logits_soft_cap=0.0)
    attention = SimpleNamespace(num_heads=4, num_kv_heads=2, head_size=SIZE, impl=impl)
    layer = SimpleNamespace(attn=attention, total_num_heads=4, total_num_kv_heads=2)
    facts = LayerFacts.of(layer)
    assert (facts.heads, facts.kv_heads, facts.gather) == (4, 2, None)
    distributed = SimpleNamespace(tensor_model_parallel_all_gather=torch.clone)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(distributed=distributed))
    monkeypatch.setitem(sys.modules, "vllm.distributed", distributed)
    layer.total_num_heads, layer.total_num_kv_heads = 8, 2
    facts = LayerFacts.of(layer)
    assert (facts.heads, facts.kv_heads, facts.gather) == (8, 2, torch.clone)
