"""Stands for CUDA graphs of whole steps, on a CPU: vLLM's V1 runner records and dispatches them as on a GPU.

A graph runs the same operations on the same memory again. So does this: it runs the model on the tensors and in the
forward context of the recording, whatever vLLM has made for the step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from vllm.config import CUDAGraphMode
from vllm.forward_context import get_forward_context, override_forward_context
from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder


@dataclass
class RecordedModel:
    """The model of a runner; ``entries`` has what was recorded of each size of a step."""

    model: Any
    entries: dict[Any, tuple[dict[str, Any], Any]] = field(default_factory=dict)
    replays: list[tuple[int, int]] = field(default_factory=list)  # requests of each step, and with padding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **given: Any) -> Any:
        context = get_forward_context()
        if context.cudagraph_runtime_mode != CUDAGraphMode.FULL:
            return self.model(**given)
        size = context.batch_descriptor
        if size not in self.entries:
            self.entries[size] = given, replace(context)
            return self.model(**given)
        recorded, own = self.entries[size]
        for name, value in given.items():
            assert value is None or value.data_ptr() == recorded[name].data_ptr(), name
        for metadata in {id(x): x for x in own.attn_metadata.values()}.values():
            metadata.scheduler_metadata = metadata.schedule()
        lengths = next(iter(context.attn_metadata.values())).seq_lens
        self.replays.append((int((lengths > 0).sum()), len(lengths)))
        with override_forward_context(own):
            return self.model(**recorded)


def schedule_late(monkeypatch: Any) -> None:
    """Let metadata of vLLM's backend for CPUs know how to divide work by the lengths that its tensors have then.

    On a GPU kernels do, or the builder writes it into a buffer of its own.
    """
    build = CPUAttentionMetadataBuilder.build

    def built(self: Any, prefix: int, common: Any, *args: Any, **kwargs: Any) -> Any:
        made = build(self, prefix, common, *args, **kwargs)
        late = replace(common, seq_lens=made.seq_lens)
        made.schedule = lambda: build(self, prefix, late).scheduler_metadata
        return made

    monkeypatch.setattr(CPUAttentionMetadataBuilder, "build", built)


def record(runner: Any, mode: CUDAGraphMode, sizes: list[int]) -> RecordedModel:
    """Record graphs for steps of these sizes, by vLLM's own capture of them, and use them from the next step on."""
    runner.compilation_config.cudagraph_mode = mode
    runner.compilation_config.cudagraph_capture_sizes = sizes
    runner.compilation_config.max_cudagraph_capture_size = max(sizes)
    runner.compilation_config.post_init_cudagraph_sizes()
    runner.cudagraph_dispatcher.cudagraph_mode = mode
    runner.cudagraph_dispatcher.initialize_cudagraph_keys(mode, runner.uniform_decode_query_len)
    model = runner.model = RecordedModel(runner.model)
    for kind, found in runner.cudagraph_dispatcher.get_capture_descs():
        for size in found:
            runner._warmup_and_capture(size, cudagraph_runtime_mode=kind, num_warmups=1)
    assert model.entries
    return model
