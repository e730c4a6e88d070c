"""Answers, computed again from the record of what was drawn, by rules of this file's own."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from sparsesight.scenes.drawing import SIDE
from sparsesight.scenes.mixed.dataset import PICTURES, SPLITS
from sparsesight.scenes.mixed.picture import Element, Picture
from sparsesight.scenes.mixed.things import THINGS, plural
from sparsesight.scenes.questions import Question

Elements = list[Element]
SINGULAR = {plural(thing.name): thing.name for thing in THINGS}
CATEGORIES = {"animals": "animal", "vehicles": "vehicle", "musical instruments": "instrument"}


def named(elements: Elements, name: str) -> Elements:
    """All that a name means, whatever stands around it in a question."""
    name = re.sub(r'^(the |an |a )?(sign |word |bar of )?"?|"$', "", name)
    return [e for e in elements if e.name == name and e.kind not in ("tick", "title")]


def only(elements: Elements, name: str) -> Element:
    (one,) = named(elements, name)
    return one


def size(elements: Elements, name: str) -> str:
    return only(elements, name).size


def behind(elements: Elements, what: str, name: str) -> str:
    return getattr(only(elements, name), what)


def letter(elements: Elements, name: str) -> str:
    return only(elements, name).text


def color(elements: Elements, name: str) -> str:
    return only(elements, name).color


def quadrant(elements: Elements, name: str) -> str:
    x, y = only(elements, name).center
    return f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"


def is_there(elements: Elements, name: str) -> str:
    return "yes" if named(elements, name) else "no"


def in_picture(elements: Elements, name: str, which: str) -> str:
    return is_there([e for e in elements if e.picture == ("first", "second").index(which)], name)


def chart_shows(elements: Elements, name: str) -> str:
    return is_there([e for e in elements if e.kind in ("bar", "point", "label")], name)


def how_many(elements: Elements, phrase: str) -> str:
    if phrase in CATEGORIES:
        return str(sum(e.category == CATEGORIES[phrase] for e in elements))
    return str(sum(e.name == SINGULAR[phrase] for e in elements))


def how_many_signs(elements: Elements, what: str) -> str:
    return str(sum(e.text.isdigit() == (what == "number") for e in elements))


def how_many_rows(elements: Elements) -> str:
    return str(max(e.cell[1] for e in elements))


def how_many_values(elements: Elements) -> str:
    return str(len({e.cell for e in elements if e.kind in ("bar", "point")}))


def beside(elements: Elements, direction: str, name: str) -> str:
    column, row = only(elements, name).cell
    dx, dy = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}[direction]
    (there,) = [e for e in elements if e.cell == (column + dx, row + dy)]
    return there.name


def lies(elements: Elements, name: str, direction: str, other: str) -> str:
    (ax, ay), (bx, by) = only(elements, name).center, only(elements, other).center
    ahead = {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}[direction]
    return "yes" if ahead > 0 else "no"


def on_plate(elements: Elements, color: str, shape: str) -> str:
    if shape == "sign":
        (there,) = [e for e in elements if e.color == color]
        return there.text
    (there,) = [e for e in elements if (e.kind, e.color, e.shape) == ("icon", color, shape)]
    return there.name


def value(elements: Elements, name: str) -> str:
    (there,) = [e for e in elements if e.kind in ("bar", "point") and e.name == name]
    return str(there.value)


def best_value(elements: Elements, word: str) -> str:
    values = sorted((e.value, e.name) for e in elements if e.kind in ("bar", "point"))
    return values[-1 if word == "highest" else 0][1]


def higher(elements: Elements, name: str, other: str) -> str:
    return "yes" if int(value(elements, name)) > int(value(elements, other)) else "no"


def number(elements: Elements, row: str, column: str) -> int:
    across = next(e.cell[0] for e in elements if e.kind == "heading" and e.name == column)
    down = next(e.cell[1] for e in elements if e.kind == "label" and e.name == row)
    return next(int(e.text) for e in elements if e.cell == (across, down))


def larger(elements: Elements, row: str, other: str, column: str) -> str:
    return "yes" if number(elements, row, column) > number(elements, other, column) else "no"


def best_row(elements: Elements, word: str, column: str) -> str:
    rows = sorted((number(elements, e.name, column), e.name) for e in elements if e.kind == "label")
    return rows[-1 if word == "largest" else 0][1]


def heading(elements: Elements, place: str) -> str:
    headings = sorted((e.cell[0], e.name) for e in elements if e.kind == "heading")
    return headings[-1 if place == "last column" else 0][1]


def first_word(elements: Elements, place: str) -> str:
    labels = sorted((e.cell[1], e.name) for e in elements if e.kind == "label")
    return labels[-1 if place == "last row" else 0][1]


def title(elements: Elements) -> str:
    return next(e.text for e in elements if e.kind == "title")


def box(elements: Elements, name: str) -> str:
    (one,) = named(elements, name)
    return " ".join(str(int(100 * edge / SIDE + 0.5)) for edge in one.box)


def first_or_second(elements: Elements, name: str) -> str:
    (picture,) = {e.picture for e in named(elements, name)}
    return ("first", "second")[picture]


def in_both(elements: Elements, name: str) -> str:
    return "yes" if {e.picture for e in named(elements, name)} == {0, 1} else "no"


def more(elements: Elements, phrase: str) -> str:
    counts = [
        sum(
            e.picture == which and phrase in ("things", f"{e.category}s", f"musical {e.category}s")
            for e in elements
        )
        for which in range(2)
    ]
    assert counts[0] != counts[1]
    return "first" if counts[0] > counts[1] else "second"


def only_in(elements: Elements, here: str) -> str:
    names = [{e.name for e in elements if e.picture == which and e.kind == "icon"} for which in range(2)]
    (alone,) = names[0] - names[1] if here == "first" else names[1] - names[0]
    return alone


DIRECTION = "(left of|right of|above|below)"
RULES: list[tuple[str, Callable[..., str]]] = [
    (r"What size is the (.+)\?", size),
    (r"What (color|shape) is behind the (.+)\?", behind),
    (r"What letter is on the (.+)\?", letter),
    (r"What color is the (.+)\?", color),
    (r"Where is the (.+)\?", quadrant),
    (r"Is there (.+) in the (first|second) picture\?", in_picture),
    (r"Is there (.+) in the picture\?", is_there),
    (r"Is there a row for (.+)\?", is_there),
    (r"Does the chart show a value for (.+)\?", chart_shows),
    (r"How many signs show a (number|word)\?", how_many_signs),
    (r"How many rows of numbers are there\?", how_many_rows),
    (r"How many values does the chart show\?", how_many_values),
    (r"How many (.+) are there\?", how_many),
    (rf"What is {DIRECTION} the (.+)\?", beside),
    (rf"Is the (.+) {DIRECTION} the (.+)\?", lies),
    (r"What is (?:written )?on the (\w+) (\w+)\?", on_plate),
    (r"What is the value of (.+)\?", value),
    (r"Which value is the (highest|lowest)\?", best_value),
    (r"Is (\w+) higher than (\w+)\?", higher),
    (r"What is the number in row (\w+), column (\w+)\?", lambda e, r, c: str(number(e, r, c))),
    (r"Is (\w+) larger than (\w+) in column (\w+)\?", larger),
    (r"Which row has the (largest|smallest) number in column (\w+)\?", best_row),
    (r"What is the heading of the (.+)\?", heading),
    (r"What is the first word of the (.+)\?", first_word),
    (r"What is the title of the chart\?", title),
    (r"Point to (.+): give left, top, right and bottom of its box in percent\.", box),
    (r"Which picture shows more (.+), the first or the second\?", more),
    (r"Which picture shows (.+), the first or the second\?", first_or_second),
    (r"Do both pictures show (.+)\?", in_both),
    (r"What is in the (first|second) picture but not in the .+\?", only_in),
]
PLACE = re.compile(r"What is (?:written )?(at the .+|in the middle.*)\?")


def by_place(picture: Picture, place: str) -> str:
    """The element whose middle lies where the words say, in a picture cut into its rows and columns."""
    columns, rows = picture.layout
    words = place.split()
    across = 0 if "left" in words else columns - 1 if "right" in words else columns // 2
    down = 0 if "top" in words else rows - 1 if "bottom" in words else rows // 2
    (there,) = [
        e
        for e in picture.elements
        if (int(e.center[0] * columns // SIDE), int(e.center[1] * rows // SIDE)) == (across, down)
    ]
    return there.text if there.kind in ("sign", "number") else there.name


def row_in_words(picture: Picture, row: str) -> list[str]:
    """What a row of the layout shows, from left to right."""
    rows = picture.layout[1]
    down = {"top": 0, "bottom": rows - 1, "middle": rows // 2}[row]
    there = [e for e in picture.elements if int(e.center[1] * rows // SIDE) == down]
    return [e.name for e in sorted(there, key=lambda e: e.center[0])]


def again(picture: Picture, question: Question) -> str:
    place = PLACE.fullmatch(question.text)
    if place:
        return by_place(picture, place[1])
    for pattern, rule in RULES:
        found = re.fullmatch(pattern, question.text)
        if found:
            return rule(list(picture.elements), *found.groups())
    raise AssertionError(f"no rule for {question.text!r}")


@pytest.mark.parametrize("kind", [*PICTURES])
def test_answers_are_right(pictures: list[Picture], kind: str) -> None:
    pool = SPLITS["test"].pool
    checked = 0
    for picture in (one for one in pictures if one.kind == kind):
        for asked in PICTURES[kind][1](picture, pool).values():
            for _, question in asked:
                if question.kind == "describe":
                    row = re.fullmatch("Describe the (.+) row in a sentence.", question.text)
                    assert row is not None
                    listed = re.split(
                        r", (?:an? )?| and (?:an? )?|(?:shows|says) (?:an? )?", question.answer[:-1]
                    )
                    assert listed[1:] == row_in_words(picture, row[1]), question
                else:
                    assert again(picture, question) == question.answer, (picture.seed, question)
                checked += 1
    assert checked > 60


@pytest.mark.parametrize("kind", [*PICTURES])
def test_questions_name_what_they_rest_on(pictures: list[Picture], kind: str) -> None:
    """A question's elements are those that its text or its answer names; no patch matters to an absent thing."""
    pool = SPLITS["test"].pool
    for picture in (one for one in pictures if one.kind == kind):
        for kind_of_question, asked in PICTURES[kind][1](picture, pool).items():
            assert len({question.text for _, question in asked}) == len(asked)
            for weight, question in asked:
                assert weight > 0 and question.kind == kind_of_question
                assert all(0 <= index < len(picture.elements) for index in question.objects)
                if question.kind == "exist":
                    assert bool(question.objects) == (question.answer == "yes")
                elif question.kind != "count":
                    assert picture.patches(question).any(), question
