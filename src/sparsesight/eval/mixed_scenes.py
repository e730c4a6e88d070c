"""The questions about mixed scenes as items of a task; see :mod:`sparsesight.scenes.mixed.dataset`."""

from __future__ import annotations

from ..scenes.mixed.answers import target_of
from ..scenes.mixed.dataset import VERSION, Example, examples
from .records import Item

# The groups that questions are reported in by how many patches matter: the least number of each, and its name.
PATCH_GROUPS = (
    (50, "50 patches or more"),
    (25, "25 to 49 patches"),
    (10, "10 to 24 patches"),
    (1, "1 to 9 patches"),
    (0, "no patch"),
)


def patch_group(count: int) -> str:
    """The group of a question to which `count` patches matter."""
    return next(name for least, name in PATCH_GROUPS if count >= least)


def _tags(example: Example) -> tuple[str, ...]:
    question = example.question
    single = (f"one {example.size} object",) if len(question.objects) == 1 else ()
    return (example.picture.kind, question.kind, *single, patch_group(int(example.patches.sum())))


def mixed_items(split: str, limit: int | None = None) -> list[Item]:
    """The questions of a split, the first `limit` of them; those about one picture are a unit.

    An item's ``request`` is its picture, or a tuple of two for a comparison.

    Raises:
        SparseSightError: icons or fonts are not installed.
    """
    found: list[Item] = []
    for example in examples(split):
        if limit is not None and len(found) >= limit:
            break
        images = example.images
        found.append(
            Item(
                id=example.id,
                question=example.question.text,
                target=target_of(example.question),
                unit=f"{VERSION}/{example.picture.seed}",
                tags=_tags(example),
                request=images[0] if len(images) == 1 else images,
            )
        )
    return found
