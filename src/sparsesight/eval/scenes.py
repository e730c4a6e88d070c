"""The scenes of the bundled model as items of a sweep: splits of :mod:`sparsesight.bundled.dataset`."""

from __future__ import annotations

from functools import partial

from PIL import Image

from ..bundled.dataset import Example, examples
from ..bundled.scenes import KINDS, SINGLE_OBJECT, VERSION
from .samples import Item

# Names of tasks and the splits they are.
SCENES = {"scenes": "test", "scenes-b": "test-b", "scenes-occluded": "occluded", "scenes-clutter": "clutter"}

ALL, SINGLE = "all", "single-object"
NO_OBJECT = "no object"
GROUPS = (ALL, SINGLE, *KINDS, "small", "large", NO_OBJECT)


def groups(example: Example) -> tuple[str, ...]:
    """The groups that an example counts in, of `GROUPS`: its kind, the size of the object it is about, ..."""
    kind = example.question.kind
    single = (SINGLE,) if kind in SINGLE_OBJECT else ()
    return (ALL, *single, kind, NO_OBJECT if example.size == "none" else example.size)


def scene_items(task: str, limit: int | None = None) -> list[Item]:
    """The questions of a task of :data:`SCENES`; those about one scene are a unit.

    Args:
        task: its name.
        limit: only the first so many questions.
    """
    found: list[Item] = []
    for example in examples(SCENES[task]):
        if limit is not None and len(found) >= limit:
            break
        found.append(
            Item(
                id=example.id,
                question=example.question.text,
                target=example.question.answer,
                unit=f"{VERSION}/{example.scene.seed}",
                tags=tuple(name for name in groups(example) if name != ALL),
                request=partial(_picture, example),
            )
        )
    return found


def _picture(example: Example) -> Image.Image:
    return example.image
