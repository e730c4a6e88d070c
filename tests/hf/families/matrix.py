"""What is tried with every family: named checks, each on eager and sdpa attention (design section 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from sparsesight import sparsify
from sparsesight.core.budget import BEFORE
from sparsesight.hf.families import inspect_model
from tests.hf.snapshot import Snapshot

from .base import CLIPS, SAMPLES, Family, Sample
from .oracle import blinded
from .rotation import rotated_ones

NEW = 3  # tokens to generate
ATTENTION = ("eager", "sdpa")


class Case:
    """A family with its models, and what several checks need of them."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.models = {attention: family.build(attention) for attention in ATTENTION}
        self.parts = inspect_model(self.models["eager"])
        self.samples: tuple[Sample, ...] = (*SAMPLES, *(CLIPS if "video" in family.visual else ()))
        self._prompts: dict[tuple[int, ...], dict[str, Any]] = {}
        self._oracles: dict[Any, tuple[Tensor, Tensor]] = {}

    def prompt(self, *which: int) -> dict[str, Any]:
        """What `generate` takes for these samples; by default all."""
        which = which or tuple(range(len(self.samples)))
        if which not in self._prompts:
            self._prompts[which] = self.family.prompts([self.samples[i] for i in which])
        return dict(self._prompts[which])

    def budget(self, **how: Any) -> dict[str, Any]:
        """Options that prune after three layers, or after all that there are where they are fewer."""
        layers = tuple(x for x in self.parts.prunable if x != BEFORE)
        if len(layers) >= 3:
            return {"retain": 0.4, **how}
        return {"retain": (9, 6)[: len(layers)], "layers": layers, **how}

    def sparse(self, attention: str, method: str = "sparsevlm+") -> AbstractContextManager[Any]:
        return sparsify(self.models[attention], method, **self.budget())

    def generate(self, attention: str, prompt: dict[str, Any], **how: Any) -> tuple[Tensor, Tensor]:
        """New tokens [b, t] and their logits [b, t, vocabulary]."""
        out = self.models[attention].generate(
            **prompt,
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **how,
        )
        return out.sequences[:, -NEW:], torch.stack(out.logits, 1)

    def dense_failure(self, check: str, attention: str) -> str:
        """Why the dense model does not do what a check asks of the sparse one, or nothing if it does."""
        try:
            DENSE.get(check, dense_runs)(self, attention)
        except Exception as error:
            return f"{type(error).__name__}: {error}".split("\n")[0]
        return ""

    def close(self, a: Tensor, b: Tensor, what: str) -> None:
        atol = self.family.tolerance
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-3, msg=lambda text: f"{what}: {text}")

    def oracle(self, which: int, stages: tuple[int, ...], kept: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the dense model says of a sample whose layers after each stage see no dropped token."""
        key = which, stages, tuple(tuple(k.tolist()) for k in kept)
        if key not in self._oracles:
            prompt = self.prompt(which)
            ids = torch.tensor(self.parts.visual_ids)
            visual = torch.isin(prompt["input_ids"][0], ids).nonzero()[:, 0]
            gone = {}
            ends = [*stages[1:], len(self.parts.layers) - 1]
            for layer, end, stay in zip(stages, ends, kept, strict=True):
                assert 0 < len(stay) < len(visual), f"sample {which}: nothing pruned after layer {layer}"
                missing = torch.ones(len(visual), dtype=torch.bool)
                missing[stay] = False
                gone |= dict.fromkeys(range(layer + 1, end + 1), visual[missing])
            with blinded(self.parts, gone, prompt["input_ids"].shape[1]):
                self._oracles[key] = self.generate("eager", prompt)
        return self._oracles[key]


# -- the checks: each takes a case and an attention implementation ------------------------------------------------


def batch(case: Case, attention: str) -> None:
    """A left-padded batch gives each sample what it gets alone, and keeps the same of it."""
    methods = ["sparsevlm+"] if attention == "eager" else ["sparsevlm+", "sparsevlm"]  # the latter merges
    for method in methods:
        with case.sparse(attention, method) as run:
            _, logits = case.generate(attention, case.prompt())
            kept = run.kept
            for i, sample in enumerate(case.samples):
                _, own = case.generate(attention, case.prompt(i))
                case.close(logits[i], own[0], f"{method}, sample {i}")
                assert bool(sample.images or sample.videos) == bool(run.kept)
                for stage, alone in zip(kept, run.kept, strict=False):
                    assert torch.equal(stage[i], alone[0]), f"{method}, sample {i}: kept others"


def dense_batch(case: Case, attention: str) -> None:
    """The same without sparsification."""
    _, logits = case.generate(attention, case.prompt())
    for i in range(len(case.samples)):
        case.close(logits[i], case.generate(attention, case.prompt(i))[1][0], f"sample {i}")


def oracle(case: Case, attention: str) -> None:
    """A sparse run is the dense one in which later layers do not see what was dropped."""
    for which, sample in enumerate(case.samples):
        if not (sample.images or sample.videos):
            continue
        with case.sparse(attention) as run:
            tokens, logits = case.generate(attention, case.prompt(which))
        dense_tokens, dense = case.oracle(which, run.layers, [stage[0] for stage in run.kept])
        case.close(logits, dense, f"sample {which}")
        assert torch.equal(tokens, dense_tokens)


def identity(case: Case, attention: str) -> None:
    """Keeping everything is the dense model, bit for bit; so is the model afterwards."""
    prompt = case.prompt()
    tokens, logits = case.generate(attention, prompt)
    with sparsify(case.models[attention], **case.budget(retain=1.0)) as run:
        again, sparse = case.generate(attention, prompt)
    assert torch.equal(logits, sparse) and torch.equal(tokens, again)
    assert run.kept == []
    with case.sparse(attention):
        case.generate(attention, prompt)
    assert torch.equal(case.generate(attention, prompt)[1], logits), "not restored"


def beams(case: Case, attention: str) -> None:
    """Beam search over a batch finds what it finds alone."""
    with case.sparse(attention):
        dense_beams(case, attention)


def dense_beams(case: Case, attention: str) -> None:
    """The same without sparsification."""
    how = {"max_new_tokens": NEW, "num_beams": 3, "do_sample": False}
    model, every = case.models[attention], range(len(SAMPLES))
    together = model.generate(**case.prompt(*every), **how)[:, -NEW:]
    alone = [model.generate(**case.prompt(i), **how)[:, -NEW:] for i in every]
    assert torch.equal(together, torch.cat(alone))


def lengths(case: Case, attention: str) -> None:
    """The report's lengths and bytes are those of the cache; no text goes, and something visual does."""
    model, prompt = case.models[attention], case.prompt()

    def cached() -> list[Any]:
        out = model.generate(**prompt, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
        return [getattr(layer, "keys", None) for layer in out.past_key_values.layers], out.past_key_values

    def stored(layers: list[Any]) -> tuple[int, ...]:
        return tuple(0 if keys is None or not keys.numel() else keys.shape[-2] for keys in layers)

    def size(cache: Any) -> int:
        held = [t for x in cache.layers for t in (getattr(x, "keys", None), getattr(x, "values", None))]
        return sum(t.nbytes for t in held if isinstance(t, Tensor))

    dense, whole = cached()
    with case.sparse(attention) as run:
        sparse, cache = cached()
    count = len(case.parts.layers)
    report = run.report
    assert report.kv_lengths == (stored(sparse) + (0,) * count)[:count]
    assert report.kv_bytes_sparse == size(cache) and report.kv_bytes_dense == size(whole)
    fewer = [a < b for a, b in zip(stored(sparse), stored(dense), strict=True)]
    # What a window holds may be full all the same.
    assert any(fewer) == any(x.kind == "full_attention" for x in case.parts.kinds)
    assert report.flops_sparse < report.flops_dense


def rotation(case: Case, attention: str) -> None:
    """The rotary weight that SparseVLM+ divides out is what the pruning layer's own rotation does."""
    prompt = case.prompt(1)
    model = case.models[attention]
    with sparsify(model, trace=True, **case.budget()) as run:
        with rotated_ones(inspect_model(model), run.layers) as ones:
            model.generate(**prompt, max_new_tokens=1, do_sample=False)
        trace = run.trace
    for step, layer in zip(trace, run.layers, strict=True):
        stage = step.stage
        rows, keys = stage.attention.query.shape[2], stage.attention.key.shape[2]
        if not ones[layer]:
            assert stage.attention.inv_freq is None, f"layer {layer} is not rotated"
            continue
        query, key = (_rows(x, keys) for x in ones[layer][:2])
        rest = stage.attention.query.shape[-1] - query.shape[-1]
        weight = (query[-rows:] @ key.T + rest) / stage.attention.query.shape[-1] ** 0.5
        case.close(stage.attention.rope_weight()[0], weight, f"layer {layer}")


def fast(case: Case, attention: str) -> None:
    """Segments that run as programs give what layers give one by one; those that cannot be, say why."""
    for which in (0, 1):
        prompt = case.prompt(which)
        for how in (case.budget(), case.budget(retain=1.0)):
            with sparsify(case.models[attention], **how) as run:
                tokens, logits = case.generate(attention, prompt)
                kept = run.kept
            with sparsify(case.models[attention], fast="plain", **how) as run:
                for _ in range(2):
                    again, own = case.generate(attention, prompt)
                    case.close(own, logits, f"sample {which}")
                    assert torch.equal(tokens, again)
                    assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
            use = run.fast
            assert use is not None and use.segments and len(use.ran) == len(use.segments)
            assert sum(use.ran) + len(use.why_not) == len(use.ran)
            if case.family.name in FAST and attention == "sdpa":
                assert all(use.ran), use.why_not


# Families whose prompts of one sample are known to run as programs from end to end.
FAST = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "internvl")


def _rows(x: Tensor, count: int) -> Tensor:
    """One head [rows, width] of [1, heads, rows, width] or [1, rows, heads, width]."""
    return x[0, 0] if x.shape[2] == count else x[0, :, 0]


def dense_runs(case: Case, attention: str) -> None:
    """The dense model can be asked at all."""
    case.generate(attention, case.prompt())
    for i in range(len(case.samples)):
        case.generate(attention, case.prompt(i))


def taken_back(case: Case, attention: str) -> None:
    """Also after an exception, nothing is left: on modules, in configs, in transformers' registries."""
    model = case.models[attention]
    before = Snapshot(model)
    with contextlib.suppress(ZeroDivisionError), case.sparse(attention):
        assert Snapshot(model).differences(before), "the snapshot sees nothing"
        raise ZeroDivisionError
    assert Snapshot(model).differences(before) == []


CHECKS: dict[str, Callable[[Case, str], None]] = {
    "batch": batch,
    "oracle": oracle,
    "identity": identity,
    "beams": beams,
    "lengths": lengths,
    "rotation": rotation,
    "fast": fast,
    "taken_back": taken_back,
}
# What transformers itself must do for a check to say anything; a family may name these in `Family.broken`.
DENSE: dict[str, Callable[[Case, str], None]] = {"batch": dense_batch, "beams": dense_beams}
