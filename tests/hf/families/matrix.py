"""What is tried with every family: named checks of prompts and their answers (design section 4).

Checks of what else one does with a model are in `usage.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsesight import sparsify
from sparsesight.method_names import DEFAULT

from . import calls, encoding, usage
from .base import SAMPLES
from .case import INSIDE, MERGING, Case, Run
from .rotation import rotated_ones


def batch(case: Case, attention: str) -> None:
    """A left-padded batch of samples gives each what it gets alone, and keeps the same of it."""
    check_batch(case, attention, case.few)


def batch_of_all(case: Case, attention: str) -> None:
    """The same of every sample."""
    check_batch(case, attention, tuple(range(len(case.samples))))


def check_batch(case: Case, attention: str, which: tuple[int, ...]) -> None:
    method = case.turn(*MERGING) if attention == "sdpa" else "sparsevlm+"
    whole = case.run(attention, method, *which)
    for i, number in enumerate(which):
        sample, alone = case.samples[number], case.run(attention, method, number)
        case.close(whole.logits[i], alone.logits[0], f"{method}, sample {number}")
        assert bool(sample.images or sample.videos) == bool(alone.kept)
        for stage, own in zip(whole.kept, alone.kept, strict=False):
            assert torch.equal(stage[i], own[0]), f"{method}, sample {number}: kept others"


def dense_batch(case: Case, attention: str) -> None:
    """The same without sparsification."""
    whole = case.dense(attention)
    for i in range(len(case.samples)):
        case.close(whole.logits[i], case.dense(attention, i).logits[0], f"sample {i}")


def oracle(case: Case, attention: str) -> None:
    """A sparse run is the dense one in which later layers do not see what was dropped: two pictures; a clip too.

    One picture alone is in `early` and `turns`.
    """
    check_oracle(case, attention, [i for i in case.few if i in (1, 5)])


def oracle_of_all(case: Case, attention: str) -> None:
    """The same of every sample with something visual."""
    check_oracle(case, attention, [i for i, x in enumerate(case.samples) if x.images or x.videos])


def check_oracle(case: Case, attention: str, every: Sequence[int]) -> None:
    method = "sparsevlm+" if attention == "eager" else case.turn(*INSIDE)
    for which in every:
        run = case.run(attention, method, which)
        tokens, logits = case.oracle(which, run.layers, [stage[0] for stage in run.kept])
        case.close(run.logits, logits, f"{method}, sample {which}")
        assert torch.equal(run.tokens, tokens)


def identity(case: Case, attention: str) -> None:
    """Keeping everything is the dense model, bit for bit; so is the model afterwards."""
    dense, prompt = case.dense(attention), case.prompt()
    with sparsify(case.models[attention], **case.budget(retain=1.0)) as run:
        again, sparse = case.generate(attention, prompt)
    assert torch.equal(dense.logits, sparse) and torch.equal(dense.tokens, again)
    assert run.kept == []
    with case.sparse(attention), torch.no_grad():
        case.models[attention](**prompt)
    assert torch.equal(case.generate(attention, prompt)[1], dense.logits), "not restored"


def beams(case: Case, attention: str) -> None:
    """Beam search over a batch finds what it finds alone."""
    with case.sparse(attention):
        check_beams(case, attention, (1, 3))


def beams_of_all(case: Case, attention: str) -> None:
    """The same of every sample without clips."""
    with case.sparse(attention):
        dense_beams(case, attention)


def dense_beams(case: Case, attention: str) -> None:
    """The same without sparsification."""
    check_beams(case, attention, tuple(range(len(SAMPLES))))


def check_beams(case: Case, attention: str, which: tuple[int, ...]) -> None:
    new = 3  # beams change places between steps
    how = {"max_new_tokens": new, "num_beams": 3, "do_sample": False}
    model = case.models[attention]
    together = model.generate(**case.prompt(*which), **how)[:, -new:]
    alone = [model.generate(**case.prompt(i), **how)[:, -new:] for i in which]
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
    count = len(case.family.kinds)
    report = run.report
    assert report.kv_lengths == (stored(sparse) + (0,) * count)[:count]
    assert report.kv_bytes_sparse == size(cache) and report.kv_bytes_dense == size(whole)
    fewer = [a < b for a, b in zip(stored(sparse), stored(dense), strict=True)]
    # What a window holds may be full all the same.
    assert any(fewer) == ("f" in case.family.kinds)
    assert report.macs_sparse < report.macs_dense


def rotation(case: Case, attention: str) -> None:
    """The rotary weight that SparseVLM+ divides out is what the pruning layer's own rotation does."""
    prompt = case.prompt(1)
    model = case.models[attention]
    with case.sparse(attention, "sparsevlm+", trace=True) as run, torch.no_grad():
        with rotated_ones(case.layers(attention), run.layers) as ones:
            model(**prompt)
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
    check_fast(case, attention, case.run(attention, DEFAULT, 1), 1)


def fast_dense(case: Case, attention: str) -> None:
    """The same where everything is kept."""
    check_fast(case, attention, case.dense(attention, 1), 1, retain=1.0)


def check_fast(case: Case, attention: str, wanted: Run, which: int, **how: Any) -> None:
    prompt = case.prompt(which)
    with case.sparse(attention, fast="plain", **how) as run:
        for _ in range(2):
            tokens, logits = case.generate(attention, prompt)
            case.close(logits, wanted.logits, f"sample {which}")
            assert torch.equal(tokens, wanted.tokens)
            assert all(torch.equal(a[0], b[0]) for a, b in zip(wanted.kept, run.kept, strict=True))
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
    case.dense(attention)
    for i in range(len(case.samples)):
        case.dense(attention, i)


BOTH: dict[str, Callable[[Case, str], None]] = {"batch": batch, "oracle": oracle}
# What these do with fewer samples or in one way, the checks of the same first name do in `make test`.
SLOW: dict[str, Callable[[Case, str], None]] = {
    "batch_of_all": batch_of_all,
    "oracle_of_all": oracle_of_all,
    "beams_of_all": beams_of_all,
    "exceptions_of_all": usage.exceptions_of_all,
}
# These pass through the same code whichever attention there is: each family runs them with one of the two ...
ONE: dict[str, Callable[[Case, str], None]] = {
    "identity": identity,
    "lengths": lengths,
    "turns": usage.turns,
    "early": usage.early,
    "routers": calls.routers,
}
# ... and in `make test` every third family, or every sixth, runs these.
THIRD: dict[str, Callable[[Case, str], None]] = {
    "fast": fast,
    "beams": beams,
    "outputs": usage.outputs,
    "rotation": rotation,
    "exceptions": usage.exceptions,
    "masks": usage.masks,
    "answers": calls.answers,
    "taken_back": usage.taken_back,
    "dense_turns": usage.dense_turns_again,
}
SIXTH: dict[str, Callable[[Case, str], None]] = {
    "fast_dense": fast_dense,
    "encoded_once": encoding.encoded_once,
    "compiled": usage.compiled,
}
CHECKS = BOTH | ONE | THIRD | SIXTH | SLOW
# What transformers itself must do for a check to say anything; a family may name these in `Family.broken`.
DENSE: dict[str, Callable[[Case, str], None]] = {
    "batch": dense_batch,
    "batch_of_all": dense_batch,
    "beams": dense_beams,
    "beams_of_all": dense_beams,
    **usage.DENSE,
}
