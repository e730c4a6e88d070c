"""The parts of training on a language model, each against what it stands for."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sparsesight import bundled, ops
from sparsesight.scenes.scenes import render

from . import small_language_model
from .conftest import script


@pytest.fixture(scope="module")
def smol() -> Any:
    script("train_smol")
    return script("training.smol")


@pytest.fixture(scope="module")
def data(smol: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("pictures")
    prompts = script("training.smol.prompts").Prompts(small_language_model.tokenizer())
    tower = bundled.load()[0].model.vision_tower
    made = smol.pictures.made(folder / "scenes.pt", 41, 3, 40, 1)
    return smol.pictures.shown(folder / "scenes-features.pt", made, prompts, tower)


def test_attention_is_the_fused_kernels(smol: Any) -> None:
    query, key, value = (torch.randn(2, heads, 7, 8, requires_grad=True) for heads in (6, 2, 2))
    mask = torch.zeros(2, 1, 7, 7).masked_fill_(~torch.ones(7, 7, dtype=torch.bool).tril(), -1e9)
    out, _ = smol.kernels.attend(None, query, key, value, mask, scaling=0.3)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True).transpose(
        1, 2
    )
    torch.testing.assert_close(out, expected)
    ours, theirs = (torch.autograd.grad(x.square().sum(), (query, key, value)) for x in (out, expected))
    torch.testing.assert_close(ours, theirs)


def test_frozen_norm_is_the_stock_norm(smol: Any) -> None:
    stock = LlamaRMSNorm(16)
    nn.init.normal_(stock.weight)
    x, goal = torch.randn(5, 16, requires_grad=True), torch.randn(5, 16)
    ours, theirs = smol.kernels.FrozenNorm(stock)(x), stock(x)
    torch.testing.assert_close(ours, theirs)
    one, two = (torch.autograd.grad((y * goal).sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(one, two)


def test_a_delta_has_the_gradients_of_the_sum_written_out(smol: Any) -> None:
    linear = nn.Linear(6, 9, bias=False)
    delta = smol.lowrank.LowRank(linear, 3, torch.Generator().manual_seed(0))
    x = torch.randn(2, 5, 6, requires_grad=True)
    assert torch.equal(delta(x), linear(x))  # it begins as nothing
    nn.init.normal_(delta.b)
    delta.merge()
    written_out = F.linear(x, linear.weight + delta.b @ delta.a)
    torch.testing.assert_close(delta(x), written_out)
    ours, theirs = (
        torch.autograd.grad(y.square().sum(), (x, delta.a, delta.b)) for y in (delta(x), written_out)
    )
    torch.testing.assert_close(ours, theirs)


def test_a_truncated_delta_is_the_nearest_of_its_rank(smol: Any) -> None:
    delta = smol.lowrank.LowRank(nn.Linear(12, 10, bias=False), 6, torch.Generator().manual_seed(0))
    nn.init.normal_(delta.b)
    whole = (delta.b @ delta.a).detach()
    values = torch.linalg.svdvals(whole)
    for rank in (6, 2):
        a, b = smol.lowrank.truncated(delta, rank)
        assert a.shape == (rank, 12) and b.shape == (10, rank)
        torch.testing.assert_close((whole - b @ a).norm(), values[rank:6].norm(), atol=1e-4, rtol=1e-3)


def test_texts_packed_together_are_read_as_each_alone(smol: Any, data: Any) -> None:
    model = small_model()
    rows, visible = np.arange(2), np.sort(np.random.default_rng(0).permutation(576)[:40])[None].repeat(2, 0)
    shown = torch.randn(2, 40, 48)

    def read(chosen: np.ndarray, slots: np.ndarray) -> tuple[Any, torch.Tensor]:
        packed, _, _ = smol.batch.questions(data, chosen, slots, visible[: len(chosen)], torch.float32)
        opening = model.embed_tokens(torch.tensor([data.prompts.opening])).expand(len(chosen), -1, -1)
        inputs = torch.cat([opening, shown[chosen], model.embed_tokens(packed.ids)], dim=1)
        with torch.no_grad():
            hidden = model(
                inputs_embeds=inputs, position_ids=packed.positions, attention_mask=packed.mask
            ).last_hidden_state
        return packed, hidden.flatten(0, 1)[packed.at]

    packed, together = read(rows, np.tile(np.arange(5), (2, 1)))
    for row in range(2):
        for slot in range(5):
            _, alone = read(rows[[row]], np.array([[slot]]))
            torch.testing.assert_close(
                together[packed.question == 5 * row + slot], alone, atol=1e-4, rtol=1e-4
            )


def small_model() -> Any:
    parts = small_language_model.parts()
    model = LlamaForCausalLM(parts["config"])
    model.load_state_dict(parts["state"])
    return model.model.eval()


def test_search_counts_attention_on_the_patches_asked_for(smol: Any, data: Any) -> None:
    """With uniform attention, each row finds the share of its object's patches among all it may see."""
    rows, slots, visible = np.array([1]), np.arange(30)[None], np.arange(576)[None]
    packed, thoughts, search = smol.batch.questions(data, rows, slots, visible, torch.float32)
    length = packed.positions.shape[1]
    flat = torch.zeros(1, 2, length, 4)
    smol.kernels.attend(None, flat, flat, flat, packed.mask, scaling=1.0, search=search)
    scene, row = render(42), 0
    seen = packed.mask[0, 0] == 0
    for slot in range(30):
        asked = data.asked(1, slot)
        for _, _, index in asked.thoughts:
            patches = int((scene.owner == index).sum())
            expected = patches / seen[search.place[row]].sum()
            torch.testing.assert_close(search.found[0][row], expected.expand(2))
            row += 1
        if asked.counted is not None:  # their middles
            expected = len(asked.counted) / seen[search.place[row]].sum()
            torch.testing.assert_close(search.found[0][row], expected.expand(2))
            assert search.counted[row] == len(asked.counted)
            row += 1
    assert row == len(search.place) > 20 and (search.counted >= 0).any()
    tokens = [data.prompts.tokenizer.decode([i]) for i in packed.ids[0]]
    told = {
        tokens[at - packed.prefix].strip()
        for at in thoughts.at[thoughts.place == smol.pictures.NAME].tolist()
    }
    names = {word for item in scene.objects for word in item.name.split()} | {"object"}
    assert told <= names and len(told) > 3


def test_heads_whose_attention_grows_with_the_number_are_ready_to_count(smol: Any) -> None:
    numbers = torch.tensor([0, 1, 2, 5])
    rows = torch.zeros(4, dtype=torch.long)
    search = smol.kernels.Search(rows, rows, torch.zeros(4, 9), rows.bool(), numbers)
    growing, same = numbers / (numbers + 2), torch.full((4,), 0.5)
    search.found = [torch.stack([growing] * 4 + [same] * 2, dim=1)]
    assert search.counting_loss() == 0
    search.found = [torch.stack([growing] * 2 + [same] * 4, dim=1)]
    torch.testing.assert_close(search.counting_loss(), (growing - same).square().mean() / 2)


def test_a_sum_of_words_is_like_its_words_and_not_like_frequent_ones(smol: Any) -> None:
    """In a table where, as in a real one, most of what tells words apart is how frequent they are."""
    width, words = 64, 400
    common = nn.functional.normalize(torch.randn(width), dim=0)
    frequency = torch.linspace(-8, 8, words)[:, None]  # the last are the most frequent
    table = (
        nn.functional.normalize(torch.randn(words, width)) * 3 + 5 * torch.randn(width) + frequency * common
    )
    told = list(range(250, 253))
    for shared, liked in ((0, False), (1, True)):
        own = smol.projector.own_part(table, shared)
        nearest = (table @ own[told].sum(0)).topk(3).indices.tolist()
        assert (sorted(nearest) == told) == liked


def test_the_middle_of_an_object_is_told_from_its_other_patches(smol: Any, data: Any) -> None:
    table = torch.randn(len(data.prompts.tokenizer), 64)
    wanted, plain = (
        smol.projector.targets(data, data.prompts, table, range(1), weight)[0] for weight in (2.0, 0.0)
    )
    owner, central = data.owner[0], data.central[0]
    middle = 2 * smol.projector.SCALE * smol.projector.own_part(table)[data.prompts.word("middle")]
    for index in range(len(data.objects[0])):
        (place,) = np.flatnonzero((owner == index) & central)
        others = wanted[torch.from_numpy((owner == index) & ~central)]
        torch.testing.assert_close(wanted[place] - middle, others[0])
        torch.testing.assert_close(plain[place], others[0])
        torch.testing.assert_close(others, others[:1].expand_as(others))


def test_a_projector_that_is_gone_on_from_begins_as_it_is(smol: Any, data: Any) -> None:
    table = torch.randn(len(data.prompts.tokenizer), 64)
    projector = nn.Sequential(
        OrderedDict(linear_1=nn.Linear(128, 64), gelu=nn.GELU(), linear_2=nn.Linear(64, 64))
    )
    with torch.no_grad():
        before = projector(data.features[0].float())
        smol.projector.fit(projector, data, table, 3, 0, seed=0, anew=False)
        torch.testing.assert_close(projector(data.features[0].float()), before, atol=1e-3, rtol=1e-3)


def test_a_fitted_projector_makes_words_of_content_the_raters(smol: Any, data: Any, monkeypatch: Any) -> None:
    table = nn.functional.normalize(torch.randn(len(data.prompts.tokenizer), 64)) * 3 + torch.randn(64)
    own_part = smol.projector.own_part  # all directions of a random table tell words apart
    monkeypatch.setattr(smol.projector, "own_part", lambda table: own_part(table, shared=0))
    projector = nn.Module()
    projector.linear_1, projector.linear_2 = nn.Linear(128, 64), nn.Linear(64, 64)
    projector.forward = lambda x: projector.linear_2(F.gelu(projector.linear_1(x)))  # type: ignore[method-assign]
    left = smol.projector.fit(projector, data, table, 3, 150, seed=0)
    assert left < 0.3 and not any(weight.requires_grad for weight in projector.parameters())
    true = {word for item in render(41).objects for word in (item.shape, item.color, item.size)}
    with torch.no_grad():
        visual = projector(data.features[:1].float())
    for slot in range(20):
        question = data.questions[0][slot]
        if not question.objects or question.kind == "count":
            continue
        ids = data.prompts.ids(question.text)
        ones = [torch.ones(1, n, dtype=torch.bool) for n in (576, len(ids))]
        raters = ops.text_raters(visual, table[ids][None], *ones)[0]
        told = {
            data.prompts.tokenizer.decode([i]).strip() for i, rater in zip(ids, raters, strict=True) if rater
        }
        assert told & true, question.text


def test_no_instruction_is_both_replayed_and_held_out() -> None:
    kept, held = script("training.smol.replay").instructions()
    assert not set(kept) & set(held)
    assert len(kept) > 150 and len(held) > 50


def test_a_replayed_text_ends_only_where_the_base_ended(smol: Any) -> None:
    prompts = script("training.smol.prompts").Prompts(small_language_model.tokenizer())
    long = [7] * smol.replay.ANSWER
    replay = smol.replay.Replay(prompts, ["Is there a star?", "Where?"], [[7, 8], long])
    (short_ids, given, goal), (_, _, long_goal) = replay.texts
    assert goal == (7, 8, prompts.end) and short_ids[given:] == (7, 8)
    assert long_goal == tuple(long)
