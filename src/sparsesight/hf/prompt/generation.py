"""What ``generate()`` knows and a forward does not: where the prompt ends.

Otherwise the candidates of assisted decoding (which come with the prompt in the first forward) and tokens generated
without a cache (which come again with the prompt at each step) would be taken for text of the question.
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
    ids: Tensor | None = None  # of the prompt, where it is given as embeddings too

    def watch(
        self, generate: Callable[..., Any], has_pictures: Callable[[Any], bool], over: Callable[[], None]
    ) -> Callable[..., Any]:
        """``generate`` that tells us what its prompt is, and is the same otherwise.

        ``has_pictures`` tells of a prompt's token ids (or None) whether it has visual tokens; ``over`` is called when
        the outermost call has ended, also by an exception.
        """

        @wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            outer = self.prompt, self.samples, self.within, self.ids  # an assistant may be the same model
            refuse(generate, args, kwargs, has_pictures)
            size = prompt_size(args, kwargs)
            self.samples, self.prompt = (None, None) if size is None else size
            self.within, self.ids = True, ids_beside_embeddings(args, kwargs)
            try:
                return generate(*args, **kwargs)
            finally:
                self.prompt, self.samples, self.within, self.ids = outer
                if not self.within:
                    over()

        return watched

    def prompt_columns(self, past: int, length: int) -> int:
        """How many of a forward's ``length`` tokens belong to the prompt, if ``past`` are cached."""
        return length if self.prompt is None else min(max(self.prompt - past, 0), length)

    def ids_of(self, past: int, embeds: Tensor) -> Tensor | None:
        """Token ids [b, n] of a forward's embeddings [b, n, c], if ``past`` tokens are cached; None if not known."""
        ids, (batch, length) = self.ids, embeds.shape[:2]
        if ids is None or batch % ids.shape[0] or ids.shape[1] not in (length, past + length):
            return None
        # Beams of a sample follow one another.
        return ids[:, -length:].repeat_interleave(batch // ids.shape[0], 0)


def ids_beside_embeddings(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Token ids [b, n] of a prompt that ``generate(*args, **kwargs)`` is given as ``inputs_embeds``, too."""
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    both = isinstance(kwargs.get("inputs_embeds"), Tensor) and isinstance(ids, Tensor) and ids.ndim == 2
    return ids if both else None


def no_continuous_batching(*args: Any, **kwargs: Any) -> Any:
    """In place of ``init_continuous_batching``, which ``generate_batch`` calls as well.

    Raises:
        UnsupportedModelError: always.
    """
    raise UnsupportedModelError(
        "generate_batch, init_continuous_batching: continuous batching packs prompts into blocks of keys that all "
        "layers share, which cannot be pruned; use generate() while sparsified"
    )


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
            f"assistant_early_exit={early}: a decoder that stops there has not reached all pruning layers; use another "
            "assistant_model, or prompt_lookup_num_tokens"
        )
    if setting("cache_implementation") == "paged":
        raise UnsupportedModelError(
            "cache_implementation='paged': its layers share blocks of keys, which cannot be pruned; leave it out"
        )
