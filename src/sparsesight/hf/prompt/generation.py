"""What ``generate()`` knows and a forward does not: where the prompt ends.

Without it, the candidates of assisted decoding (they come with the prompt in the first forward) and everything that was
generated without a cache (it comes again with the prompt, step by step) would pass for the question's text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ...errors import UnsupportedModelError


class Generating(threading.local):
    """Per thread, of the ``generate()`` in flight: how long its prompt is, of how many samples; None outside of one."""

    prompt: int | None = None
    samples: int | None = None  # before beams and returned sequences repeat them
    within: bool = False  # whether there is one

    def watch(
        self, generate: Callable[..., Any], has_pictures: Callable[[Any], bool], over: Callable[[], None]
    ) -> Callable[..., Any]:
        """``generate`` that tells us what its prompt is, and is the same otherwise.

        ``has_pictures`` tells of a prompt's token ids (or None) whether it has visual tokens; ``over`` is called when
        the outermost call has ended, also by an exception.
        """

        @wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            outer = self.prompt, self.samples, self.within  # an assistant may be the same model
            refuse(generate, args, kwargs, has_pictures)
            size = prompt_size(args, kwargs)
            self.samples, self.prompt = (None, None) if size is None else size
            self.within = True
            try:
                return generate(*args, **kwargs)
            finally:
                self.prompt, self.samples, self.within = outer
                if not self.within:
                    over()

        return watched

    def prompt_columns(self, past: int, length: int) -> int:
        """How many of a forward's ``length`` tokens belong to the prompt, if ``past`` are cached."""
        return length if self.prompt is None else min(max(self.prompt - past, 0), length)


def prompt_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int] | None:
    """Samples and tokens of the prompt, cached ones included, of a ``generate(*args, **kwargs)``; None if it is not
    given any."""
    given = args[0] if args else kwargs.get("inputs")
    mask, embeds, ids = (kwargs.get(k) for k in ("attention_mask", "inputs_embeds", "input_ids"))
    candidates = ((mask, 2), (embeds, 3), (given, 2), (ids, 2))
    found = (x.shape for x, axes in candidates if isinstance(x, Tensor) and x.ndim == axes)
    return next(((int(shape[0]), int(shape[1])) for shape in found), None)


def refuse(
    generate: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    has_pictures: Callable[[Any], bool],
) -> None:
    """Refuse ways of generating that show the decoder a part of the prompt, or only a part of the decoder.

    Raises:
        UnsupportedModelError: naming the argument and what to do.
    """
    model: Any = getattr(generate, "__self__", None)
    given = kwargs.get("generation_config"), args[1] if len(args) > 1 else None
    configs = (*given, getattr(model, "generation_config", None))

    def setting(name: str) -> Any:
        values = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    chunk, size = setting("prefill_chunk_size"), prompt_size(args, kwargs)
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    if chunk is not None and (size is None or chunk < size[1]) and has_pictures(ids):
        raise UnsupportedModelError(
            f"prefill_chunk_size={chunk}: what a picture's tokens are worth is known only once the question after them "
            "has been read; use prefill_chunk_size=None while sparsified"
        )
    early = setting("assistant_early_exit")
    if early is not None:
        raise UnsupportedModelError(
            f"assistant_early_exit={early}: a decoder that stops there has not dropped all it is to drop; use another "
            "assistant_model, or prompt_lookup_num_tokens"
        )
    if setting("cache_implementation") == "paged":
        raise UnsupportedModelError(
            "cache_implementation='paged': its layers share blocks of keys, which cannot be pruned; leave it out"
        )
