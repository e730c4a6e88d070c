"""Fidelity: every number of the golden fixtures, through ops, methods and the transformers integration.

Indices, counts, ranks, positions and tokens must be exact; floats stay within the bounds the fixtures state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import ops, sparsify
from sparsesight.hf.pruned_layer import PrunedDynamicLayer
from tests import parity_cases
from tests.in_turn import in_turn

CASES = [p for p in parity_cases.files("case_") if "_dense_" not in p.name]
DENSE = parity_cases.files("case_dense_")


def test_fixtures_are_there() -> None:
    """Any part of the set may be given, but not nothing; the repository's own has all kinds."""
    assert CASES or DENSE or parity_cases.files("unit_"), f"no fixtures in {parity_cases.directory()}"
    own = {path.stem.split("_")[0] + path.stem.split("_")[1] for path in parity_cases.BUNDLED.glob("*.npz")}
    assert own >= {"casedense", "casev10", "casev15", "casev20", "unittext", "weightsw1"}


def test_a_set_may_lack_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without dense cases, or without units, is a set of fixtures."""
    (tmp_path / "case_v15_r192.npz").touch()
    monkeypatch.setenv("SPARSESIGHT_PARITY_DIR", str(tmp_path))
    assert len(parity_cases.files("case_")) == 1 and not parity_cases.files("case_dense_")
    with pytest.raises(pytest.skip.Exception, match="no unit_text_raters"):
        items("text_raters")


def close(actual: torch.Tensor, expected: np.ndarray, atol: float = 0.0, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(actual.detach().float().numpy(), expected, atol=atol, rtol=rtol)


def exact(actual: Any, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(actual), expected)


class LayerLog:
    """What enters every decoder layer: hidden states, positions, and lengths at each forward."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forwards: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        self.final: list[torch.Tensor] = []
        for i, layer in enumerate(model.model.layers):  # type: ignore[attr-defined,arg-type]
            layer.register_forward_pre_hook(self._hook(i), with_kwargs=True)
        model.model.norm.register_forward_hook(lambda m, a, out: self.final.append(out))  # type: ignore[attr-defined]

    def _hook(self, i: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            if i == 0:
                self.forwards.append([])
            self.forwards[-1].append((args[0], kwargs["position_ids"]))

        return hook


def generate(model: Any, embeds: torch.Tensor) -> Any:
    return model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=9,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )


@pytest.mark.parametrize(
    ("path", "attention"), in_turn(CASES, ["sdpa", "eager"]), ids=lambda x: getattr(x, "stem", x)
)
def test_case(path: Path, attention: str) -> None:
    config, case = parity_cases.load(path)
    model = parity_cases.llama(config, attention)
    embeds = torch.from_numpy(case["inputs_embeds"].astype(np.float32))[None]
    start, end = case["visual_range"]
    mask = torch.zeros(1, embeds.shape[1], dtype=torch.bool)
    mask[:, start:end] = True
    with sparsify(model, parity_cases.method(config), visual_mask=mask, trace=True) as run:
        log = LayerLog(model)  # after ours: it sees what the layers see
        out = generate(model, embeds)
        trace, report, kept = run.trace, run.report, run.kept

    stress = "stress" in path.name
    for i, (layer, step) in enumerate(zip(config["pruning_layers"], trace, strict=True)):
        check_stage(case, f"st{i}_", layer, step, log, stress)
        origin = case[f"st{i}_kept_origin"]
        exact(kept[i][0], origin[origin >= 0])
    text = trace[0].stage.rater[0]
    exact(text.nonzero()[:, 0], case["rater_idx"])

    prefill = log.forwards[0]
    exact([h.shape[1] for h, _ in prefill], case["seq_len_per_layer"])
    exact(report.kv_lengths, case["seq_len_per_layer"])
    close(torch.stack([h[0, -1, :8] for h, _ in prefill]), case["layer_last8"], atol=2e-4)
    close(log.final[0][0, -1], case["final_hidden_last"], atol=2e-4)
    survivors = log.final[0][0, trace[-1].rows.source[0].sort().values]
    if not any("merged" in k for k in case.files):  # rows scattered back in their own order
        close(survivors[:, :8], case["final_hidden8"], atol=2e-4)
    exact(out.sequences[0], case["tokens"])
    close(torch.cat(out.logits), case["logits"], atol=2e-4)
    decode = [[int(p[0, 0]) for _, p in forward] for forward in log.forwards[1:]]
    exact(decode, case["decode_pos"])
    cached = [
        layer.physical_length() if isinstance(layer, PrunedDynamicLayer) else layer.get_seq_length()
        for layer in out.past_key_values.layers
    ]
    exact(cached, case["seq_len_per_layer"] + 8)
    if config["equal_tokens"] is not None:
        assert report.samples[0].equal_tokens == pytest.approx(config["equal_tokens"], rel=1e-6)
    if config["flops"] is not None:
        sample = report.samples[0]
        assert sample.macs_sparse - sample.macs_scoring == config["flops"]


def check_stage(case: Any, key: str, layer: int, step: Any, log: LayerLog, stress: bool) -> None:
    stage, selection, rows = step.stage, step.selection, step.rows
    assert stage.layer == layer == case[f"{key}layer"]
    n_in, n_keep, _, n_recycled, n_cluster, n_out = case[f"{key}counts"]
    counts = selection.counts
    assert [stage.visual.sum(), counts.keep[0], counts.recycled[0], counts.merged[0], counts.tokens_out[0]] == [
        n_in, n_keep, n_recycled, n_cluster, n_out
    ]  # fmt: skip
    close(selection.score[0], case[f"{key}score"], rtol=5e-2 if stress else 5e-5)
    exact(selection.keep[0].nonzero()[:, 0], case[f"{key}kept_rel"])
    exact(stage.origin[selection.keep], case[f"{key}kept_origin"])
    exact(rows.origin[0][rows.visual[0]], case[f"{key}origin_after"])
    hidden, position = log.forwards[0][layer + 1]
    exact(position[0], case[f"{key}position_ids"])
    close(hidden[0, :, :8], case[f"{key}hidden8"], atol=2e-4)
    close(hidden[0].norm(dim=-1), case[f"{key}hidden_norm"], atol=2e-4)
    if n_cluster:
        exact(selection.recycled[0], case[f"{key}recycled_rel"])
        recycled = ops.gather_rows(stage.hidden, stage.column.gather(1, selection.recycled))
        close(recycled[0, :, :8], case[f"{key}recycled_in8"], atol=2e-4)
        close(selection.merge.tokens[0], case[f"{key}merged"], atol=2e-4)
        exact(selection.merge.assign[0], case[f"{key}cluster_assign"])
        if n_cluster > 1:  # a single centre is arbitrary
            exact(selection.merge.centre[0], case[f"{key}cluster_centers"])
    if f"{key}heads" in case.files:
        rater = stage.rater[0]
        gravity = stage.attention.rope_weight()[0][rater][:, stage.attention.key_column[0]]
        close(gravity, case[f"{key}rope_rows"], atol=2e-5)
        received = stage.attention.received(stage.rater, stage.attention.rope_weight())
        heads, _ = ops.select_heads(received, stage.visual, 14)
        exact(heads[0], case[f"{key}heads"])
        sums = received[0].sum(-1) * rater.sum()
        close(sums, case[f"{key}head_sums"], rtol=2e-2 if stress else 5e-5)
    if f"{key}rank" in case.files:
        assert (
            ops.attention_rank(stage.attention.mean_attention(), stage.rater, stage.visual)
            == case[f"{key}rank"]
        )


@pytest.mark.parametrize("path", DENSE, ids=lambda p: p.stem)
def test_dense_case(path: Path) -> None:
    """Keeping everything is the plain decoder."""
    config, case = parity_cases.load(path)
    model = parity_cases.llama(config)
    embeds = torch.from_numpy(case["inputs_embeds"].astype(np.float32))[None]
    start, end = case["visual_range"]
    mask = torch.arange(embeds.shape[1]).ge(int(start)) & torch.arange(embeds.shape[1]).lt(int(end))
    with sparsify(model, "sparsevlm+", retain=1.0, visual_mask=mask) as run:
        out = generate(model, embeds)
        assert run.report.kv_lengths == tuple(case["seq_len_per_layer"])
    exact(out.sequences[0], case["tokens"])
    close(torch.cat(out.logits), case["logits"], atol=2e-4)


def unit(name: str) -> Path:
    """The fixture of one function, if the set has it."""
    found = parity_cases.files(f"unit_{name}")
    if not found:
        pytest.skip(f"no unit_{name} in {parity_cases.directory()}")
    return found[0]


def items(name: str) -> list[tuple[Any, dict[str, np.ndarray]]]:
    path = unit(name)
    config, data = parity_cases.load(path)
    split = []
    for i in range(config["count"]):
        prefix = f"c{i}_"
        split.append(
            (
                config["items"][i],
                {k.removeprefix(prefix): data[k] for k in data.files if k.startswith(prefix)},
            )
        )
    return split


def batched(array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype)[None]


def ones(n: int) -> torch.Tensor:
    return torch.ones(1, n, dtype=torch.bool)


def test_unit_text_raters() -> None:
    for _, c in items("text_raters"):
        visual, text = batched(c["visual"]), batched(c["text"])
        chosen = ops.text_raters(visual, text, ones(visual.shape[1]), ones(text.shape[1]))
        exact(chosen[0].nonzero()[:, 0], c["rater_idx"])


def test_unit_cluster_merge() -> None:
    for item, c in items("cluster_merge"):
        x, k = batched(c["x"]), item["k"]
        merge = ops.density_peaks_merge(x, [x.shape[1]], [k])
        close(merge.tokens[0], c["merged"], atol=5e-6)
        exact(merge.assign[0], c["assign"])
        if k > 1:
            exact(merge.centre[0], c["centers"])


def test_unit_head_select() -> None:
    for item, c in items("head_select"):
        start, visual = item["visual_start"], item["num_visual"]
        rater = torch.from_numpy(c["rater_idx"]).long() + start + visual  # counted from the first text token
        attention = batched(c["attn"])[:, :, rater, start : start + visual]
        received = attention.mean(2)
        heads, score = ops.select_heads(received, ones(visual), 14)
        exact(heads[0], c["heads"])
        close(received[0].sum(-1) * attention.shape[2], c["head_sums"], atol=5e-6)
        close(score[0], c["score"], atol=5e-6)


def test_unit_rank_budget() -> None:
    pairs = parity_cases.load(unit("rank_budget"))[0]["scale_bias"]
    for _, c in items("rank_budget"):
        mean = batched(c["rater_attn"]).mean(1)
        visual = torch.tensor([mean.shape[2]])
        rank = ops.attention_rank(mean, ones(mean.shape[1]), ones(mean.shape[2]))
        assert rank == c["rank"]
        score = mean.mean(1)
        close(score[0], c["score"], atol=5e-6)
        place = ops.ranks(score, ones(mean.shape[2]))
        rules = [(f"{j}", scale, bias) for j, (scale, bias) in enumerate(pairs)]
        for name, scale, bias in rules:
            keep = ops.rank_rule(rank, visual, scale, bias)
            pruned = bool(keep < visual)
            assert pruned == bool(c[f"flag{name}"])
            exact((place < keep)[0], c[f"mask{name}"].astype(bool))
        keep = ops.rank_rule(rank, visual, 1.0, 0.0)
        assert bool(keep < visual) == bool(c["video_flag"])
        exact((place < keep)[0], c["video_mask"].astype(bool))


def test_unit_rope_weights() -> None:
    for item, c in items("rope_weights"):
        d = item["head_dim"]
        inv_freq = 1.0 / item["rope_theta"] ** (torch.arange(0, d, 2).float() / d)
        weight = ops.rope_weight(
            batched(c["query_pos"], torch.long), batched(c["key_pos"], torch.long), inv_freq, d
        )
        close(weight[0], c["rope_rows"], atol=3e-4)
