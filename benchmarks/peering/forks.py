"""What adapters for checkouts of LLaVA's code base have in common: its configuration, weights and prompt.

An adapter builds the model's class itself, since the loaders of that code base convert to half precision and need a
tokenizer. Nothing of the checkout is changed on disk; what an adapter changes in memory is in ``CHANGES``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PICTURE = -200  # the id that stands for a picture there


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the configuration class."""
    shape = json.loads(Path(job["folder"], "shape.json").read_text())
    clip = json.loads(Path(job["folder"], "clip", "config.json").read_text())
    return {
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["ffn"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["heads"],
        "vocab_size": job["vocabulary"],
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 0,
        "mm_vision_tower": str(Path(job["folder"], "clip").resolve()),
        "mm_hidden_size": clip["vision_config"]["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
    }


def weights(job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of decoder and projector, mapped from the file: processes share them."""
    found: dict[str, torch.Tensor] = torch.load(
        Path(job["folder"], "decoder.pt"), map_location="cpu", mmap=True
    )
    return found


def build(model_class: Callable[..., Any], config: Any, job: dict[str, Any], *more: Any) -> Any:
    """A model with the checkpoint's weights, in float32."""
    import transformers.modeling_utils

    with (
        replaced(transformers.modeling_utils, _init_weights=False),
        replaced(torch.nn.init, **dict.fromkeys(("kaiming_uniform_", "uniform_", "normal_"), _same)),
    ):
        model = model_class(config, *more)
    tower = model.get_vision_tower()
    tower.load_model()
    missing, unknown = model.load_state_dict(weights(job), strict=False, assign=True)
    missing = [name for name in missing if "vision_tower" not in name and "rotary" not in name]
    if missing or unknown:
        raise RuntimeError(f"weights do not fit: without {missing[:3]}, unknown {unknown[:3]}")
    model.generation_config.eos_token_id = None
    return model.eval()


def _same(weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """No first values: those of the file replace them."""
    return weight


def prompt_ids(prompt: dict[str, Any]) -> torch.Tensor:
    """[1, n], with one id in place of all pictures."""
    return torch.cat((prompt["before"], torch.tensor([PICTURE]), prompt["after"]))[None]


def generated(model: Any, ids: torch.Tensor, images: torch.Tensor, **more: Any) -> int:
    """The first token, by the code base's own ``generate``."""
    out = model.generate(ids, images=images, max_new_tokens=1, do_sample=False, **more)
    while not isinstance(out, torch.Tensor):
        out = out["sequences"] if isinstance(out, dict) else out[0]
    return int(out[0, -1])


@contextmanager
def caches(decoder: Any) -> Iterator[list[list[Any]]]:
    """Collects keys and values of each layer as the decoder returns them."""
    found: list[list[Any]] = []

    def note(_: Any, __: Any, out: Any) -> None:
        while not isinstance(out, dict):  # SparseVLM's decoder returns it last in a tuple
            out = out[-1]
        past = out["past_key_values"]
        found.append([(keys, values) for keys, values in past])

    hook = decoder.register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def replaced(owner: Any, **names: Any) -> Iterator[None]:
    """Attributes of a module or class, and back."""
    before = {name: getattr(owner, name) for name in names}
    try:
        for name, value in names.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


class Nothing:
    """Stands for events and streams of a GPU that is not there."""

    def __init__(self, **_: Any) -> None: ...

    def record(self) -> None: ...

    def elapsed_time(self, _: Nothing) -> float:
        return 0.0


@contextmanager
def _no_stream(_: Any) -> Iterator[None]:
    yield


def without_cuda() -> None:
    """Events, streams and ``synchronize`` do nothing, and ``.cuda()`` is the tensor itself."""
    torch.cuda.Event = Nothing  # type: ignore[misc,assignment]
    torch.cuda.Stream = Nothing  # type: ignore[misc,assignment]
    torch.cuda.stream = _no_stream  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    torch.Tensor.cuda = lambda x, *_, **__: x  # type: ignore[method-assign,assignment]
