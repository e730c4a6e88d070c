"""Questions: every answer is found a second time here, from the wording and the objects alone."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from sparsesight.scenes.drawing import Rng
from sparsesight.scenes.objects import COLORS, LETTERS, SHAPES, SIZES, Recipe, SceneObject, arrange
from sparsesight.scenes.questions import KINDS, SINGLE_OBJECT, Question

Objects = tuple[SceneObject, ...]
Asked = list[tuple[Objects, float, Question]]
Answered = tuple[str, tuple[int, ...]]
STEPS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@pytest.fixture(scope="module")
def asked() -> dict[str, Asked]:
    """All the questions about 100 scenes, by kind."""
    found: dict[str, Asked] = defaultdict(list)
    for seed in range(100):
        objects = arrange(Rng(seed), Recipe())
        for kind, (_, ask) in KINDS.items():
            found[kind] += [(objects, weight, question) for weight, question in ask(objects)]
    return found


def meant(objects: Objects, *words: str) -> tuple[int, ...]:
    """The objects that all the words are true of."""
    return tuple(i for i, one in enumerate(objects) if set(words) <= {one.color, one.shape, one.size})


def the(objects: Objects, *words: str) -> int:
    """The one object that "the ..." means, checked to be the only one and to have a distractor."""
    found = meant(objects, *words)
    assert len(found) == 1, f"{words} means {len(found)} objects"
    index = found[0]
    others = [one for i, one in enumerate(objects) if i != index]
    assert any(one.color == objects[index].color or one.shape == objects[index].shape for one in others)
    return index


def answer_color(objects: Objects, name: str) -> Answered:
    index = the(objects, *name.split())
    return objects[index].color, (index,)


def answer_shape(objects: Objects, name: str) -> Answered:
    index = the(objects, *name.split())
    return objects[index].shape, (index,)


def answer_size(objects: Objects, color: str, shape: str) -> Answered:
    index = the(objects, color, shape)
    return "small" if objects[index].extent < 55 else "large", (index,)


def answer_letter(objects: Objects, color: str) -> Answered:
    index = the(objects, color, "card")
    return objects[index].letter, (index,)


def answer_where(objects: Objects, color: str, shape: str) -> Answered:
    index = the(objects, color, shape)
    x, y = (start + objects[index].extent / 2 for start in (objects[index].left, objects[index].top))
    assert abs(x - 168) > 14 and abs(y - 168) > 14, "too close to the middle"
    return ("top" if y < 168 else "bottom") + (" left" if x < 168 else " right"), (index,)


def answer_exist(objects: Objects, article: str, color: str, shape: str) -> Answered:
    assert article == ("an" if color == "orange" else "a")
    assert color in COLORS and shape in SHAPES
    found = meant(objects, color, shape)
    return "yes" if found else "no", found


def answer_count(objects: Objects, plural: str) -> Answered:
    word = plural.removesuffix(" objects")
    if word == plural:
        word = "cross" if plural == "crosses" else plural.removesuffix("s")
    assert word in COLORS or word in SHAPES
    found = meant(objects, word)
    return str(len(found)), found


def answer_neighbor(objects: Objects, direction: str, color: str, shape: str) -> Answered:
    index = the(objects, color, shape)
    (column, row), (dx, dy) = objects[index].cell, STEPS[direction]
    (beside,) = [i for i, one in enumerate(objects) if one.cell == (column + dx, row + dy)]
    return f"{objects[beside].color} {objects[beside].shape}", (index, beside)


def answer_compare(objects: Objects, color: str, shape: str, direction: str, *other: str) -> Answered:
    first, second = the(objects, color, shape), the(objects, *other)
    axis = 0 if direction in ("left of", "right of") else 1
    gap = objects[first].center[axis] - objects[second].center[axis]
    assert abs(gap) >= 24, "too close to compare"
    return "yes" if (gap < 0) == (direction in ("left of", "above")) else "no", (first, second)


THING = r"(\w+) (\w+)"
DIRECTION = "(left of|right of|above|below)"
SIZE = "(?:small |large )?"
ANSWERERS: dict[str, tuple[str, Callable[..., Answered]]] = {
    "color": (rf"What color is the ({SIZE}\w+)\?", answer_color),
    "shape": (rf"What shape is the ({SIZE}\w+) object\?", answer_shape),
    "size": (rf"What size is the {THING}\?", answer_size),
    "letter": (r"What letter is on the (\w+) card\?", answer_letter),
    "where": (rf"Where is the {THING}\?", answer_where),
    "exist": (rf"Is there (an?) {THING}\?", answer_exist),
    "count": (r"How many ([\w ]+) are there\?", answer_count),
    "neighbor": (rf"What is {DIRECTION} the {THING}\?", answer_neighbor),
    "compare": (rf"Is the {THING} {DIRECTION} the {THING}\?", answer_compare),
}


def test_all_kinds_are_covered_here() -> None:
    assert list(ANSWERERS) == list(KINDS)
    assert tuple(ANSWERERS)[:5] == SINGLE_OBJECT


@pytest.mark.parametrize("kind", ANSWERERS)
def test_answers_follow_from_the_objects(kind: str, asked: dict[str, Asked]) -> None:
    assert len(asked[kind]) >= 150
    pattern, answer = ANSWERERS[kind]
    for objects, weight, question in asked[kind]:
        match = re.fullmatch(pattern, question.text)
        assert match, question.text
        right, shown_by = answer(objects, *match.groups())
        assert question.answer == right, (objects, question)
        assert question.objects == shown_by, (objects, question)
        assert question.kind == kind and weight > 0


@pytest.mark.parametrize("kind", ["color", "shape"])
def test_a_size_is_named_only_where_it_is_needed(kind: str, asked: dict[str, Asked]) -> None:
    sized = 0
    for objects, _, question in asked[kind]:
        words = question.text.removesuffix("?").removesuffix(" object").split()[4:]
        if words[0] in SIZES:
            sized += 1
            assert len(meant(objects, words[1])) > 1, question.text
    assert 0.2 < sized / len(asked[kind]) < 0.9


def test_every_object_that_can_be_named_is_asked_about(asked: dict[str, Asked]) -> None:
    asked_about = {(objects, question.objects[0]) for objects, _, question in asked["size"]}
    for objects in {objects for objects, _, _ in asked["size"]}:
        for index, item in enumerate(objects):
            unique = len(meant(objects, item.color, item.shape)) == 1
            rivals = len(meant(objects, item.color)) > 1 or len(meant(objects, item.shape)) > 1
            assert ((objects, index) in asked_about) == (unique and rivals)


def test_a_scene_is_not_asked_the_same_twice(asked: dict[str, Asked]) -> None:
    for kind, found in asked.items():
        times = Counter((objects, question.text) for objects, _, question in found)
        assert max(times.values()) == 1, kind


def test_yes_and_no_weigh_the_same_in_every_scene(asked: dict[str, Asked]) -> None:
    weights: dict[tuple[Objects, str], float] = defaultdict(float)
    for objects, weight, question in asked["exist"]:
        weights[objects, question.answer] += weight
    for objects in {objects for objects, _ in weights}:
        assert weights[objects, "yes"] == pytest.approx(weights[objects, "no"])


def test_most_that_is_absent_mixes_what_is_there(asked: dict[str, Asked]) -> None:
    mixed = total = 0.0
    for objects, weight, question in asked["exist"]:
        if question.answer == "no":
            *_, color, shape = question.text.removesuffix("?").split()
            mixed += weight * bool(meant(objects, color) and meant(objects, shape))
            total += weight
    assert mixed / total > 0.75


def test_what_the_model_cannot_count_to_is_not_asked(asked: dict[str, Asked]) -> None:
    assert {question.answer for _, _, question in asked["count"]} == set("012345")
    texts = {(objects, question.text) for objects, _, question in asked["count"]}
    many = 0
    for objects in {objects for objects, _, _ in asked["count"]}:
        for color, number in Counter(item.color for item in objects).items():
            assert ((objects, f"How many {color} objects are there?") in texts) == (number <= 5)
            many += number > 5
    assert many > 10, "these seeds do not have what the test is about"


def test_no_answer_is_given_away_by_its_kind(asked: dict[str, Asked]) -> None:
    """Answering without the picture must not pay: no answer may hold much more than a fair share of its kind."""
    most = {"size": 0.6, "exist": 0.55, "compare": 0.55, "where": 0.35, "count": 0.3, "shape": 0.3}
    for kind, found in asked.items():
        shares: dict[str, float] = defaultdict(float)
        for _, weight, question in found:
            shares[question.answer] += weight
        assert max(shares.values()) / sum(shares.values()) <= most.get(kind, 0.2), (kind, dict(shares))


def test_every_answer_occurs(asked: dict[str, Asked]) -> None:
    answers = {kind: {question.answer for _, _, question in found} for kind, found in asked.items()}
    assert answers["color"] == set(COLORS)
    assert answers["shape"] == set(SHAPES)
    assert answers["letter"] == set(LETTERS)
    assert answers["size"] == set(SIZES)
    assert answers["where"] == {"top left", "top right", "bottom left", "bottom right"}
