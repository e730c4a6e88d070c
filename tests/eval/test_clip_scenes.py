"""A clip as a prompt: its frames are told apart, and share a budget."""

from __future__ import annotations

import pytest

from sparsesight import bundled, sparsify
from sparsesight.eval.clip_scenes import static_items
from sparsesight.methods import make_method
from sparsesight.scenes.clips import FRAMES

TOKENS = 576  # of a frame


@pytest.mark.parametrize("name", ["halves", "vidcom2", "fastvid"])
def test_every_frame_keeps_its_share(name: str) -> None:
    """Four frames at 256 tokens: with per_frame, before the first layer, the same number of each to within one."""
    model, processor = bundled.load()
    item = static_items("test", 1)[0]
    content = [*({"type": "image"} for _ in item.request), {"type": "text", "text": item.question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=list(item.request), return_tensors="pt")
    own = {} if name in ("vidcom2", "fastvid") else {"per_frame": True}
    method = make_method(name, retain=256, **own)
    with sparsify(model, method) as run:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    clips = run.report.samples[0].clips
    assert [clip.frames for clip in clips] == [(TOKENS,)] * FRAMES
    shares = [clip.kept[0][0] for clip in clips]
    assert min(shares) > 0
    if own:
        assert max(shares) - min(shares) <= 1
