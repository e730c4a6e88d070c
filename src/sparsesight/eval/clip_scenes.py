"""The questions about rendered clips as items of a task; see :mod:`sparsesight.scenes.clips`."""

from __future__ import annotations

from functools import partial

from ..scenes.clips import FRAMES, STATIC, VERSION, examples
from .records import Item

SEVERAL, ANY = "several frames", "any frame"


def clip_items(split: str, limit: int | None = None, static: bool = False) -> list[Item]:
    """The questions of a split, the first `limit` of them; those about one clip are a unit.

    An item's ``request`` is the tuple of its frames. With `static` only what any one frame answers is asked.
    """
    found: list[Item] = []
    for example in examples(split):
        if limit is not None and len(found) >= limit:
            break
        kind = example.question.kind
        if static and kind not in STATIC:
            continue
        found.append(
            Item(
                id=example.id,
                question=example.question.text,
                target=example.question.answer,
                unit=f"clips-{VERSION}/{example.clip.seed}",
                tags=(kind, ANY if kind in STATIC else SEVERAL, f"{FRAMES} frames"),
                request=example.frames,
            )
        )
    return found


static_items = partial(clip_items, static=True)
