"""The fast path gives what the ordinary way gives, and takes it wherever a program would not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from sparsesight import Method, Random, SparseSightError, SparseVLM, SparseVLMPlus, VisionZip, sparsify
from sparsesight.hf.compiled import segment
from sparsesight.hf.compiled.options import Fast
from tests.hf import tiny
from tests.hf.test_invariants import batch, close, generate, model
from tests.hf.threads import wrong_in_threads
from tests.in_turn import in_turn

METHODS: list[Method] = [
    SparseVLMPlus(0.4),
    SparseVLM(0.4),
    SparseVLM(0.4, positions="compact"),
    SparseVLM(1.0, (1, 3), adaptive=True, scale=3.0),
    VisionZip(0.4),
    Random(0.4),
    SparseVLMPlus(1.0),
]


def overwriting(function: Any, buffers: Any, pool: Any) -> Callable[[], Any]:
    """What a recorded graph does with memory: every replay writes to the outputs of the one before."""
    outputs: list[Any] = []

    def replay() -> Any:
        hidden, keys, values, query, how = function(*buffers)
        new = [hidden, *keys, *values, *([] if query is None else [query])]
        if not outputs:
            outputs.extend([hidden, keys, values, query, how])
            return tuple(outputs)
        old = [outputs[0], *outputs[1], *outputs[2], *([] if query is None else [outputs[3]])]
        for a, b in zip(old, new, strict=True):
            a.copy_(b)
        return tuple(outputs)

    return replay


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """``runner="plain"`` reuses its outputs' memory as CUDA graphs do."""
    made = segment.Program.__init__

    def init(self: Any, function: Any, inputs: Any, length: int, runner: str, pool: Any = None) -> None:
        made(self, function, inputs, length, "plain")
        self.run = overwriting(function, self.buffers, pool)

    monkeypatch.setattr(segment.Program, "__init__", init)


@pytest.mark.parametrize(("family", "method"), in_turn(tiny.FAMILIES, METHODS), ids=str)
def test_the_same_answers(family: str, method: Method, graphs: None) -> None:
    """Prompts of several lengths in turn, so that buffers hold what an earlier one left there."""
    built = model(family)
    prompts = [batch(family, (i,)) for i in (1, 0, 3, 0)]
    with sparsify(built, method) as run:
        expected = [(generate(built, prompt), run.kept, run.report.kv_lengths) for prompt in prompts]
    with sparsify(built, method, fast="plain") as run:
        generate(built, prompts[0])
        assert run.fast is not None and not any(run.fast.ran)  # it is watched first
        last = []
        for prompt, ((tokens, logits, _), kept, lengths) in zip(prompts, expected, strict=True):
            again, own, cache = generate(built, prompt)
            assert run.fast is not None and all(run.fast.ran), run.fast.why_not
            assert torch.equal(again, tokens)
            close(own, logits)
            assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, kept, strict=True))
            assert run.report.kv_lengths == lengths
            last.append((cache, [layer.keys.clone() for layer in cache.layers]))
        for cache, keys in last:  # what was cached is nobody else's
            assert all(torch.equal(layer.keys, k) for layer, k in zip(cache.layers, keys, strict=True))


def test_programs_are_kept_by_length() -> None:
    built = model("llava")
    with sparsify(built, "sparsevlm+", retain=0.4, fast=Fast("plain", bucket=16)) as run:
        for i in (0, 0, 0):
            generate(built, batch("llava", (i,)))
        assert run.fast is not None
        built_once = run.fast.programs
        assert built_once == len(run.fast.segments) == 4
        generate(built, batch("llava", (1,)))
        assert run.fast.programs > built_once
    with sparsify(built, "sparsevlm+", retain=0.4, fast=Fast("plain", bucket=4096)) as run:
        for i in (0, 0, 1, 3):
            generate(built, batch("llava", (i,)))
        assert run.fast is not None and run.fast.programs == 4
    with sparsify(built, "sparsevlm+", retain=0.4, fast=Fast("plain", programs=2)) as run:
        for _ in range(4):
            generate(built, batch("llava", (0,)))
        assert run.fast is not None and run.fast.programs == 12  # none is left when it is needed again


def test_what_an_earlier_prompt_left_is_not_seen() -> None:
    """Not even what is no number."""
    built, calls = model("llava"), []

    def poison(function: Any, buffers: Any) -> None:
        calls.append(function)
        for buffer in buffers:
            buffer.fill_(float("nan"))

    with sparsify(built, "sparsevlm+", retain=0.4, fast="plain") as run:
        for _ in range(2):
            _, expected, _ = generate(built, batch("llava", (0,)))
        assert run._hooks.fast is not None
        for program in run._hooks.fast.local.programs.values():
            assert isinstance(program, segment.Program)
            poison(program, program.buffers)
        _, logits, _ = generate(built, batch("llava", (0,)))
    assert len(calls) == 4 and torch.equal(logits, expected)


@pytest.mark.parametrize("bucket", [Fast().bucket, 10])
def test_lengths(bucket: int) -> None:
    how = Fast(bucket=bucket)
    for rows in (1, bucket - 1, bucket, bucket + 1, 16 * bucket, 16 * bucket + 1, 1000 * bucket + 1):
        length = how.length(rows)
        assert rows <= length <= max(bucket, rows * 9 / 8 + bucket)
        assert length % bucket == 0 and how.length(length) == length


def test_new_weights_are_used() -> None:
    built = tiny.model("llava")
    prompt = batch("llava", (0,))
    with sparsify(built, "sparsevlm+", retain=0.4, fast="plain"):
        for _ in range(2):
            before = generate(built, prompt)[1]
        built.load_state_dict({k: v * 1.1 for k, v in built.state_dict().items()}, assign=True)
        after = generate(built, prompt)[1]
    with sparsify(built, "sparsevlm+", retain=0.4):
        close(after, generate(built, prompt)[1])
    assert not torch.equal(before, after)


def test_layers_that_get_something_else_between_them() -> None:
    """Found out while watching; if it begins later, an error rather than a wrong answer."""
    built = tiny.model("llava")
    decoder, prompt = built.get_decoder(), batch("llava", (0,))
    layer = decoder.layers[6]

    class Between(torch.nn.Module):
        """A decoder's own work before its last layer."""

        on = True

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer
            self.self_attn = layer.self_attn

        def __call__(self, hidden_states: Any, **kwargs: Any) -> Any:
            return self.layer(hidden_states + 1 if self.on else hidden_states, **kwargs)

    with sparsify(built, "sparsevlm+", retain=0.4, fast="plain") as run:
        decoder.layers[6] = between = Between()
        for _ in range(3):
            generate(built, prompt)
        assert run.fast is not None and run.fast.ran == (True, True, True, False)
        between.on = False
        for _ in range(2):
            generate(built, prompt)
        assert all(run.fast.ran)
        between.on = True
        with pytest.raises(SparseSightError, match="between decoder layers 5 and 6"):
            generate(built, prompt)
        decoder.layers[6] = layer
        generate(built, prompt)


@pytest.mark.parametrize(
    "method, segments, ran",
    [
        ("sparsevlm+", ((0, 0), (1, 1), (2, 2), (3, 3), (4, 6)), (False, False, True, False, True)),
        ("halves", ((0, 4), (5, 6)), (True, True)),
    ],
)
def test_compiled_without_a_break(
    method: str, segments: tuple[Any, ...], ran: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced whole, but for layers whose attention is read; by the compiler's front end, as its back end takes a
    minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    built = tiny.model("llava")
    with sparsify(built, method, retain=0.4) as run:
        _, expected, _ = generate(built, batch("llava", (0,)))
        kept = run.kept
    with sparsify(built, method, retain=0.4, fast="compile") as run:
        for i in (0, 0, 1, 0):
            _, logits, _ = generate(built, batch("llava", (i,)))
        assert run.fast is not None and run.fast.segments == segments
        assert run.fast.ran == ran, run.fast.why_not
        assert set(run.fast.why_not) <= {"the compiler cannot follow the probe of a pruning layer"}
        assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, kept, strict=True))
    close(logits, expected)


def test_a_program_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    built = model("llava")
    with sparsify(built, "sparsevlm+", retain=0.4, fast="compile") as run:
        for _ in range(2):
            generate(built, batch("llava", (0,)))
        assert run.fast is not None and not any(run.fast.ran)
        assert "RuntimeError: no compiler here" in run.fast.why_not[-1]


def test_threads_do_not_share_buffers() -> None:
    built = model("llava")
    prompts = [batch("llava", (i,)) for i in (0, 1, 3)]
    with sparsify(built, "sparsevlm+", retain=0.4, fast=Fast("plain", bucket=256)):
        expected = [[generate(built, prompt) for _ in range(2)][1][1] for prompt in prompts]

        def works(job: int) -> bool:
            return torch.equal(generate(built, prompts[job])[1], expected[job])

        assert not wrong_in_threads(range(3), works, times=4, interval=1e-4)


def test_goes_without_a_trace() -> None:
    built = model("llava")
    before = [dict(vars(layer)) for layer in built.get_decoder().layers]
    with pytest.raises(ZeroDivisionError), sparsify(built, "sparsevlm+", retain=0.4, fast="plain"):
        assert "forward" in vars(built.get_decoder().layers[3])
        raise ZeroDivisionError
    assert [dict(vars(layer)) for layer in built.get_decoder().layers] == before
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        assert run.fast is None


@pytest.mark.parametrize("fast", ["quick", 3, None])
def test_what_is_no_runner_is_refused(fast: Any) -> None:
    built = model("llava")
    with pytest.raises(SparseSightError, match="graph, compile, plain"):
        sparsify(built, "sparsevlm+", retain=0.4, fast=fast)
    with pytest.raises(SparseSightError, match="needs CUDA"):
        sparsify(built, "sparsevlm+", retain=0.4, fast="graph")
    with pytest.raises(SparseSightError, match="bucket=0"):
        Fast(bucket=0)
    assert not vars(built.get_decoder().layers[0]).get("forward")
    with sparsify(built, "sparsevlm+", retain=0.4):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_on_a_device() -> None:
    built = tiny.model("llava").to("cuda")
    prompts = [batch("llava", (i,)).to("cuda") for i in (0, 1, 0)]
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        expected = [(generate(built, prompt)[1], run.kept) for prompt in prompts]
    with sparsify(built, "sparsevlm+", retain=0.4, fast=True) as run:
        generate(built, prompts[0])
        for prompt, (logits, kept) in zip(prompts, expected, strict=True):
            close(generate(built, prompt)[1], logits)
            assert run.fast is not None and all(run.fast.ran), run.fast.why_not
            assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, kept, strict=True))
