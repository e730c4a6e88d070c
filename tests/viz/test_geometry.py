"""A token is drawn where the model sees it: real processors and towers are asked, family by family."""

from __future__ import annotations

from functools import cache

import pytest

from sparsesight import viz
from tests.in_turn import in_turn
from tests.viz.marked_pictures import CASES, Case, Eye, ground, inner, marked, places

SIZES = [(97, 150), (200, 90)]


@cache
def eye(name: str) -> Eye:
    (case,) = [case for case in CASES if case.name == name]
    return Eye(case)


@pytest.mark.parametrize(("case", "size"), in_turn(CASES, SIZES), ids=lambda x: getattr(x, "name", str(x)))
def test_a_marked_patch_is_the_token_that_is_drawn_there(case: Case, size: tuple[int, int]) -> None:
    if eye(case.name).family.missing:
        pytest.skip(eye(case.name).family.missing)
    image = ground(*size)
    plain, (run, _) = eye(case.name).sees(image)
    look = viz.look(run, image, eye(case.name).processor, images_kwargs=case.how)
    (picture,) = look.pictures
    assert sum(view.size for view in picture.views) == len(plain)
    for view in picture.views:
        own = view.tokens.flatten().tolist() + view.ends.tolist()
        for token, box in places(view, image):
            features, _ = eye(case.name).sees(marked(image, inner(box)))
            change = (features - plain).norm(dim=1)[own]
            assert own[int(change.argmax())] == token, (view.name, box)
