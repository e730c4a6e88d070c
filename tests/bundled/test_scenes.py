"""The scene generator: the same every time, within its ranges, and never wrong about its own pictures."""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from sparsesight.bundled.scenes import (
    CELL,
    CELLS,
    COLORS,
    GRID,
    KINDS,
    LETTERS,
    MAX_CARDS,
    PATCH,
    PLAIN_SHAPES,
    SHAPES,
    SIDE,
    SIZES,
    Question,
    Scene,
    SceneObject,
    questions,
    render,
)

SEEDS = range(60)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> list[tuple[Scene, Question]]:
    return [(scene, question) for scene in scenes for question in questions(scene, 15)]


# The same every time


def test_a_seed_gives_the_same_scene_again(scenes: list[Scene]) -> None:
    for scene in scenes[:5]:
        again = render(scene.seed)
        assert again.objects == scene.objects
        assert np.array_equal(again.owner, scene.owner)
        assert again.image.tobytes() == scene.image.tobytes()
        assert questions(again, 10) == questions(scene, 10)


def test_seeds_give_different_scenes(scenes: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    assert len({scene.objects for scene in scenes}) == len(scenes)


def test_more_questions_only_add_to_the_list(scenes: list[Scene]) -> None:
    for scene in scenes[:10]:
        assert questions(scene, 12)[:5] == questions(scene, 5)


def test_nothing_depends_on_the_random_state_of_numpy() -> None:
    np.random.seed(1)  # noqa: NPY002 (the global state is the point)
    first = render(7).image.tobytes()
    np.random.seed(2)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert render(7).image.tobytes() == first
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# Ranges


def test_pictures_and_maps_have_their_sizes(scenes: list[Scene]) -> None:
    assert (SIDE, GRID, PATCH) == (336, 24, 14)
    for scene in scenes:
        assert scene.image.size == (SIDE, SIDE)
        assert scene.image.mode == "RGB"
        assert scene.owner.shape == (GRID, GRID)
        assert np.issubdtype(scene.owner.dtype, np.integer)


def test_objects_are_within_their_ranges(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 4 <= len(scene.objects) <= 9
        assert len({item.cell for item in scene.objects}) == len(scene.objects)
        assert sum(item.shape == "card" for item in scene.objects) <= MAX_CARDS
        for item in scene.objects:
            assert item.shape in SHAPES
            assert item.color in COLORS
            assert item.extent in SIZES[item.size]
            assert item.size == "large" or item.shape != "card"
            assert (
                (item.letter in LETTERS and len(item.letter) == 1)
                if item.shape == "card"
                else item.letter == ""
            )
            for start, index in zip((item.left, item.top), item.cell, strict=True):
                assert 0 <= index < CELLS
                assert CELL * index <= start <= CELL * (index + 1) - item.extent


def test_every_value_occurs(scenes: list[Scene]) -> None:
    items = [item for scene in scenes for item in scene.objects]
    assert {item.shape for item in items} == {*PLAIN_SHAPES, "card"}
    assert {item.color for item in items} == set(COLORS)
    assert {item.extent for item in items} == {extent for extents in SIZES.values() for extent in extents}
    assert {item.letter for item in items} == {"", *LETTERS}
    assert {len(scene.objects) for scene in scenes} == set(range(4, 10))


# The picture shows the objects


def test_objects_have_their_colors_in_the_picture(scenes: list[Scene]) -> None:
    # Off the middle, where a card has its letter and a ring its hole, on points that the shape is sure to cover.
    inside = {"ring": (0.13, 0.5), "card": (0.5, 0.1), "cross": (0.1, 0.5)}
    tolerance = 14 + 6 + 1  # an object's own shade, the grain, and rounding
    for scene in scenes:
        pixels = np.asarray(scene.image).astype(int)
        for item in scene.objects:
            across, down = inside.get(item.shape, (0.5, 0.5))
            found = pixels[item.top + int(down * item.extent), item.left + int(across * item.extent)]
            assert np.abs(found - COLORS[item.color]).max() <= tolerance, (scene.seed, item)


def test_cards_carry_dark_letters_and_rings_are_hollow(scenes: list[Scene]) -> None:
    for scene in scenes:
        pixels = np.asarray(scene.image).astype(int)
        for item in scene.objects:
            middle = pixels[item.top : item.top + item.extent, item.left : item.left + item.extent]
            middle = middle[item.extent // 4 : -item.extent // 4, item.extent // 4 : -item.extent // 4]
            ink = (middle.max(axis=2) < 40).sum()
            if item.letter:
                assert ink > 40, (scene.seed, item)
            if item.shape == "ring":
                center = pixels[int(item.center[1]), int(item.center[0])]
                assert np.abs(center - COLORS[item.color]).max() > 21, (scene.seed, item)


def test_letters_look_different() -> None:
    from sparsesight.bundled.drawing import letter_stencil

    assert len({letter_stencil(letter).tobytes() for letter in LETTERS}) == len(LETTERS)


# The owner map agrees with the positions of the objects


def test_owners_are_objects_or_nothing(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert set(np.unique(scene.owner)) == set(range(-1, len(scene.objects)))


def test_an_object_owns_the_patch_it_is_centered_in_and_none_it_does_not_touch(scenes: list[Scene]) -> None:
    for scene in scenes:
        for index, item in enumerate(scene.objects):
            x, y = item.center
            assert scene.owner[int(y // PATCH), int(x // PATCH)] == index
            rows, columns = np.nonzero(scene.owner == index)
            assert (rows * PATCH < item.top + item.extent).all()
            assert ((rows + 1) * PATCH > item.top).all()
            assert (columns * PATCH < item.left + item.extent).all()
            assert ((columns + 1) * PATCH > item.left).all()


def test_a_patch_inside_a_solid_object_is_its_own(scenes: list[Scene]) -> None:
    seen = 0
    for scene in scenes:
        for index, item in enumerate(scene.objects):
            if item.shape in ("square", "card"):
                rim = item.extent // 5  # a card's corners are round, a square leaves a margin
                for row in range(-(-(item.top + rim) // PATCH), (item.top + item.extent - rim) // PATCH):
                    for column in range(
                        -(-(item.left + rim) // PATCH), (item.left + item.extent - rim) // PATCH
                    ):
                        assert scene.owner[row, column] == index
                        seen += 1
    assert seen > 20


def test_patches_far_from_every_object_are_background(scenes: list[Scene]) -> None:
    for scene in scenes:
        near = np.zeros((GRID, GRID), dtype=bool)
        for item in scene.objects:
            near[
                item.top // PATCH : (item.top + item.extent - 1) // PATCH + 1,
                item.left // PATCH : (item.left + item.extent - 1) // PATCH + 1,
            ] = True
        assert (scene.owner[~near] == -1).all()
        assert 0.3 < (scene.owner[near] >= 0).mean() <= 1


# Questions: each kind is answered a second time here, from the wording and the objects alone

Answered = tuple[str, set[int]]
STEPS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def named(objects: tuple[SceneObject, ...], *words: str) -> list[int]:
    """The objects that answer to all the words."""
    return [i for i, item in enumerate(objects) if set(words) <= {item.color, item.shape}]


def only(indices: list[int]) -> int:
    assert len(indices) == 1, "the question does not say which object it means"
    return indices[0]


def answer_color(objects: tuple[SceneObject, ...], shape: str) -> Answered:
    index = only(named(objects, shape))
    return objects[index].color, {index}


def answer_shape(objects: tuple[SceneObject, ...], color: str) -> Answered:
    index = only(named(objects, color))
    return objects[index].shape, {index}


def answer_exist(objects: tuple[SceneObject, ...], color: str, shape: str) -> Answered:
    found = named(objects, color, shape)
    return "yes" if found else "no", set(found)


def answer_count(objects: tuple[SceneObject, ...], plural: str) -> Answered:
    word = plural.removesuffix(" objects")
    if word == plural:
        word = "cross" if plural == "crosses" else plural.removesuffix("s")
    found = named(objects, word)
    return str(len(found)), set(found)


def answer_neighbor(objects: tuple[SceneObject, ...], direction: str, color: str, shape: str) -> Answered:
    index = only(named(objects, color, shape))
    (column, row), (dx, dy) = objects[index].cell, STEPS[direction]
    beside = only([i for i, item in enumerate(objects) if item.cell == (column + dx, row + dy)])
    return f"{objects[beside].color} {objects[beside].shape}", {index, beside}


def answer_letter(objects: tuple[SceneObject, ...], color: str) -> Answered:
    index = only(named(objects, color, "card"))
    return objects[index].letter, {index}


def answer_compare(
    objects: tuple[SceneObject, ...],
    color: str,
    shape: str,
    direction: str,
    other_color: str,
    other_shape: str,
) -> Answered:
    first, second = only(named(objects, color, shape)), only(named(objects, other_color, other_shape))
    axis = 0 if direction in ("left of", "right of") else 1
    gap = objects[first].center[axis] - objects[second].center[axis]
    assert abs(gap) >= 24, "too close to compare"
    before = direction in ("left of", "above")
    return "yes" if (gap < 0) == before else "no", {first, second}


def answer_size(objects: tuple[SceneObject, ...], color: str, shape: str) -> Answered:
    index = only(named(objects, color, shape))
    return "small" if objects[index].extent < 35 else "large", {index}


def answer_where(objects: tuple[SceneObject, ...], color: str, shape: str) -> Answered:
    index = only(named(objects, color, shape))
    x, y = objects[index].center
    assert abs(x - 168) > 14, "too close to the middle"
    assert abs(y - 168) > 14, "too close to the middle"
    return ("top" if y < 168 else "bottom") + (" left" if x < 168 else " right"), {index}


THING = r"(\w+) (\w+)"
DIRECTION = "(left of|right of|above|below)"
ANSWERERS: dict[str, tuple[str, Callable[..., Answered]]] = {
    "color": (r"What color is the (\w+)\?", answer_color),
    "shape": (r"What shape is the (\w+) object\?", answer_shape),
    "exist": (rf"Is there a {THING}\?", answer_exist),
    "count": (r"How many ([\w ]+) are there\?", answer_count),
    "neighbor": (rf"What is {DIRECTION} the {THING}\?", answer_neighbor),
    "letter": (r"What letter is on the (\w+) card\?", answer_letter),
    "compare": (rf"Is the {THING} {DIRECTION} the {THING}\?", answer_compare),
    "size": (rf"What size is the {THING}\?", answer_size),
    "where": (rf"Where is the {THING}\?", answer_where),
}


@pytest.mark.parametrize("kind", ANSWERERS)
def test_answers_follow_from_the_objects(kind: str, asked: list[tuple[Scene, Question]]) -> None:
    of_kind = [(scene, question) for scene, question in asked if question.kind == kind]
    assert len(of_kind) >= 20
    pattern, answer = ANSWERERS[kind]
    for scene, question in of_kind:
        match = re.fullmatch(pattern, question.text)
        assert match, question.text
        right, shown_by = answer(scene.objects, *match.groups())
        assert question.answer == right, (scene.seed, question)
        assert set(question.objects) == shown_by, (scene.seed, question)
        assert len(question.objects) == len(shown_by)


def test_all_kinds_are_covered_above() -> None:
    assert set(ANSWERERS) == set(KINDS)


def test_questions_of_a_scene_differ(scenes: list[Scene]) -> None:
    for scene in scenes:
        texts = [question.text for question in questions(scene, 15)]
        assert len(set(texts)) == len(texts) == 15


def test_a_scene_that_runs_out_of_questions_says_so(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match="scene 0 has only"):
        questions(scenes[0], 10_000)


@pytest.mark.parametrize(("seed", "plural"), [(137, "red objects"), (250, "rings"), (272, "green objects")])
def test_what_the_model_cannot_count_to_is_not_asked(seed: int, plural: str) -> None:
    scene = render(seed)
    answer, _ = answer_count(scene.objects, plural)
    assert int(answer) > 5, "this seed no longer has what the test is about"
    every = [question for _, ask in KINDS.values() for _, question in ask(scene.objects)]
    assert f"How many {plural} are there?" not in {question.text for question in every}
    assert {question.answer for question in every if question.kind == "count"} <= set("012345")


def test_no_answer_is_given_away_by_its_kind(asked: list[tuple[Scene, Question]]) -> None:
    """Answering without the picture must not pay: no answer may hold much more than half of any kind."""
    for kind in KINDS:
        answers = Counter(question.answer for _, question in asked if question.kind == kind)
        assert max(answers.values()) <= 0.65 * answers.total(), (kind, answers)
    counts = Counter(question.answer for _, question in asked if question.kind == "count")
    assert set("01234") <= set(counts)
    assert max(counts.values()) <= 0.35 * counts.total()
