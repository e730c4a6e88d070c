"""Contrastive search, which repeats and selects the rows of a cache, over a pruned one."""

from __future__ import annotations

from typing import Any

import torch

from sparsesight import sparsify
from tests.hf.test_caches import fresh
from tests.hf.test_invariants import batch, model


def contrastive(cached: bool, steps: int = 3) -> Any:
    """A search of one's own, for ``custom_generate``: of the three likeliest tokens, the one with the surest successor.

    With a cache the candidates share it, by repeating and selecting its rows; without, each runs by itself.
    """

    def search(model: Any, input_ids: torch.Tensor, **how: Any) -> torch.Tensor:
        features = {"mm_encoder_outputs": how["mm_encoder_outputs"]} if "mm_encoder_outputs" in how else {}
        features |= {k: how[k] for k in ("pixel_values",) if k in how}  # older transformers encode later
        out = model(
            input_ids=input_ids,
            past_key_values=fresh(model) if cached else None,
            use_cache=cached,
            **features,
        )
        cache, logits = out.past_key_values, out.logits[:, -1]
        for _ in range(steps):
            logits[:, model.config.image_token_id] = -1e9
            top = logits.topk(3).indices[0]
            if cached:
                cache.batch_repeat_interleave(3)
                after = model(input_ids=top[:, None], past_key_values=cache).logits[:, -1]
            else:
                longer = [torch.cat((input_ids, token.view(1, 1)), 1) for token in top]
                after = torch.cat(
                    [model(input_ids=x, use_cache=False, **features).logits[:, -1] for x in longer]
                )
            best = int(after.softmax(-1).amax(1).argmax())
            if cached:
                cache.batch_select_indices(torch.tensor([best]))
            input_ids = torch.cat((input_ids, top[best].view(1, 1)), 1)
            logits = after[best : best + 1]
        return torch.cat((input_ids, logits.argmax(-1, keepdim=True)), 1)

    return lambda model, *args, **how: search(model, args[0] if args else how.pop("input_ids"), **how)


def test_contrastive_search_over_the_cache() -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    how: dict[str, Any] = {"max_new_tokens": 4}
    dense = built.generate(**prompt, **how, custom_generate=contrastive(True))
    assert torch.equal(dense, built.generate(**prompt, **how, custom_generate=contrastive(False)))
    with sparsify(built, retain=0.4):
        found = built.generate(**prompt, **how, custom_generate=contrastive(True))
        assert torch.equal(found, built.generate(**prompt, **how, custom_generate=contrastive(False)))
    assert not torch.equal(found, dense)
