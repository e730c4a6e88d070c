"""Sheets, comparisons, animations, words, charts, pages and text: what they say and hold."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sparsesight import SparseSightError, viz
from sparsesight.core.facts import Meaning
from sparsesight.viz.legend import SIGNS
from tests.viz.made_records import look, report, smooth, stage

WORDS = (
    viz.Word("USER:"),
    viz.Word("", visual=16),
    viz.Word("\nWhat"),
    viz.Word(" colour", True),
    viz.Word(" is <it>?"),
)
MERGING = stage(16, [1, 2, 3], merged=[8, 9], centre=[9])


def written(monkeypatch: pytest.MonkeyPatch, draw: Any) -> list[str]:
    """The texts that were drawn."""
    found: list[str] = []
    real = ImageDraw.ImageDraw.text

    def text(self: Any, at: Any, said: str, *rest: Any, **more: Any) -> None:
        found.append(said)
        real(self, at, said, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    draw()
    return found


def test_a_sheet_says_what_each_stage_left(monkeypatch: pytest.MonkeyPatch) -> None:
    of = look(smooth(64, 48), MERGING, stage(16, [2], layer=4), words=WORDS)
    said = written(monkeypatch, lambda: viz.stages(of))
    for line in ("16 visual tokens", "after layer 2: 3 + 1 merged of 16", "after layer 4: 1 of 16"):
        assert line in said
    assert {"What", " colour", "kept", "merged", "dropped", "words that judged"} <= set(said)
    assert "USER:" not in said  # before the picture, where nothing judges


def test_captions_of_a_stage_before_the_decoder_and_of_a_dense_prefill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = look(smooth(64, 48), stage(16, [0], layer=-1))
    assert written(monkeypatch, lambda: viz.overlay(before)) == ["before layer 0: 1 of 16"]
    assert written(monkeypatch, lambda: viz.overlay(look(smooth(64, 48)))) == ["all 16 visual tokens kept"]


def test_pictures_name_what_is_drawn_in_the_method_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of two kinds have two names, and tokens that are not kept by the score are explained."""
    asked = replace(MERGING, meaning=Meaning("likeness", "half of <them> for a change"))
    of = look(smooth(64, 48), asked, replace(stage(16, [2], layer=4), meaning=Meaning("order")))
    said = written(monkeypatch, lambda: [viz.heatmap(of, 0), viz.heatmap(of, 1)])
    assert said[0] == "by-hand, after layer 2: likeness" and "by-hand, after layer 4: order" in said
    for draw in (viz.overlay, viz.stages, lambda of, **_: viz.side_by_side({"a": of}, stage=0)):
        kept = written(
            monkeypatch, lambda draw=draw: draw(of, **({"stage": 0} if draw is viz.overlay else {}))
        )  # type: ignore[misc]
        assert "half of <them> for a change" in kept
    page = viz.page(of)
    assert "after layer 2: likeness, " in page and "after layer 4: order, " in page
    assert "3 + 1 merged of 16: half of &lt;them&gt; for a change" in page


NAMES = {sign.name for sign in SIGNS}


def seen_as(of: viz.Look, **changed: Any) -> viz.Look:
    """The same look with another view of its picture."""
    (picture,) = of.pictures
    return replace(of, pictures=(viz.Picture(picture.frames, (replace(picture.views[0], **changed),)),))


@pytest.mark.parametrize(
    ("of", "more"),
    [
        (look(smooth(64, 64), stage(16, [1])), set()),
        (look(smooth(64, 64), MERGING), {"merged", "where a merged token stands"}),
        (
            look(smooth(64, 64), MERGING, words=WORDS),
            {"merged", "where a merged token stands", "words that judged"},
        ),
        (seen_as(look(smooth(64, 64), stage(20, [1, 17])), ends=np.arange(16, 20)), {"kept row end"}),
        # A patch is 16 broad: a quarter of one is cut off.
        (
            seen_as(look(smooth(68, 64), stage(16, [1])), x=look(smooth(64, 64)).pictures[0].views[0].x),
            {"cut off"},
        ),
        (
            seen_as(look(smooth(60, 64), stage(16, [1])), x=look(smooth(64, 64)).pictures[0].views[0].x),
            {"padding"},
        ),
        # Noise of a measurement is neither.
        (
            seen_as(
                look(smooth(64, 64), stage(16, [1])), x=look(smooth(64, 64)).pictures[0].views[0].x * 0.995
            ),
            set(),
        ),
    ],
    ids=["plain", "merged", "words", "row ends", "cut", "padded", "noise"],
)
def test_legends_hold_what_was_painted_and_no_more(
    monkeypatch: pytest.MonkeyPatch, of: viz.Look, more: set[str]
) -> None:
    assert NAMES & set(written(monkeypatch, lambda: viz.stages(of))) == {"kept", "dropped", *more}
    page = viz.page(of)
    key = re.search('<p class="key".*?</p>', page, re.S)
    assert key is not None
    shown = set(re.findall("</span>([^<]+)", key[0]))
    assert shown == {"kept", "dropped", *more} - {"words that judged"}  # those have a note of their own


def test_a_caption_starts_away_from_the_edge() -> None:
    of = look(smooth(64, 64), MERGING)
    for picture in (viz.overlay(of), viz.heatmap(of), Image.open(io.BytesIO(viz.animate(of))).convert("RGB")):
        assert (np.asarray(picture)[:, :8] == 255).all()


@pytest.mark.parametrize("width", [40, 640])
def test_panels_do_not_overlap_their_neighbours_captions(width: int) -> None:
    of = look(Image.new("RGB", (width, 400), "black"), MERGING)
    sheet = viz.side_by_side({"one with a rather long name": of, "two": of}, size=320, columns=2)
    two = viz.side_by_side({"one with a rather long name": of}, size=320, columns=1)
    assert sheet.width > two.width + 100


def test_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    of = look(smooth(64, 64), MERGING, words=WORDS)
    said = written(monkeypatch, lambda: viz.side_by_side({"a\nanswer: 7": of, "b": look(smooth(64, 64))}))
    assert {"a", "answer: 7", "b", "after layer 2: 3 + 1 merged of 16", "merged"} <= set(said)
    assert "words that judged" not in said  # there are none on this sheet
    with pytest.raises(SparseSightError, match="give one look"):
        viz.side_by_side({})


@pytest.mark.parametrize("size", [(64, 64), (10, 200)], ids=str)
def test_an_animation_has_every_stage_in_frames_of_one_size(size: tuple[int, int]) -> None:
    of = look(smooth(*size), MERGING, stage(16, [2], layer=4))
    moving = Image.open(io.BytesIO(viz.animate(of, size=160, ms=500, steps=2)))
    assert moving.format == "GIF" and moving.info["loop"] == 0
    times = []
    for number in range(moving.n_frames):
        moving.seek(number)
        times.append(moving.info["duration"])
    assert times == [500, 60, 60, 500, 60, 60, 1000]


def test_raters_need_words() -> None:
    assert viz.raters(look(smooth(8, 8), words=WORDS)).width == 640
    with pytest.raises(SparseSightError, match="inputs"):
        viz.raters(look(smooth(8, 8)))


def test_a_rater_lies_on_yellow() -> None:
    plain = tuple(replace(word, rates=False) for word in WORDS)
    yellow = (240, 228, 66)

    def share(words: tuple[viz.Word, ...]) -> int:
        colours = viz.raters(look(smooth(8, 8), words=words)).getcolors(100_000)
        return sum(count for count, colour in colours or [] if colour == yellow)

    assert share(WORDS) > 100 and share(plain) == 0


class Balanced(HTMLParser):
    """Fails where tags are not closed in their order."""

    EMPTY = ("meta", "img", "input", "path", "use", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_a_page_holds_all_of_it_and_needs_nothing_else() -> None:
    of = look(smooth(64, 48), MERGING, words=WORDS)
    page = viz.page(of, title="What <is> it?", answers={"dense": "<b>7</b>", "sparse": "7"})
    html = page[: page.index("<svg")] + page[page.rindex("</svg>") + 6 :]
    assert len(set(Balanced(html).ids)) == len(Balanced(html).ids) == 2  # the picture and a stage
    assert "&lt;b&gt;7&lt;/b&gt;" in page and "<title>What &lt;is&gt; it?</title>" in page
    assert "<mark>colour</mark>" in page and "is &lt;it&gt;?" in page and "16 visual tokens" in page
    assert page.count("<img ") == 3  # the picture, the stage, its scores
    assert all('alt="' in tag for tag in re.findall("<img [^>]*>", page))
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html) and "<script" not in page


def test_a_page_of_several_shows_them_side_by_side() -> None:
    page = viz.page({"first": look(smooth(64, 48), MERGING), "second": look(smooth(64, 48))})
    assert "Side by side" in page and "<h2>first</h2>" in page and "<h2>second</h2>" in page
    with pytest.raises(SparseSightError, match="give one look"):
        viz.page({})


def test_looks_and_reports_show_themselves_in_notebooks() -> None:
    shown = look(smooth(64, 48), MERGING, words=WORDS)._repr_html_()
    assert (
        shown.startswith('<div class="sparsesight">') and "<mark>colour</mark>" in shown and "<img " in shown
    )
    table = report(16, 3)._repr_html_()
    Balanced(table)
    assert "visual tokens per layer" in table and "16 in layers 0-2, 3 in layers 3-5" in table


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda of: viz.overlay(of, stage="last"), "stage='last': give a number"),
        (lambda of: viz.overlay(of, stage=True), "stage=True: give a number"),
        (lambda of: viz.heatmap(of, None), "stage=None: give a number"),
        (lambda of: viz.heatmap(None), "look=NoneType: give what viz.look"),
        (lambda of: viz.overlay(of.report), "look=Report: give what viz.look"),
        (lambda of: viz.stages([of]), "look=list: give what viz.look"),
        (lambda of: viz.animate([of]), "look=list: give what viz.look"),
        (lambda of: viz.raters([of]), "look=list: give what viz.look"),
        (lambda of: viz.text([of]), "look=list: give what viz.look"),
        (lambda of: viz.side_by_side([of]), "looks=list: give several by name"),
        (lambda of: viz.side_by_side(of), "looks=Look: give several by name"),
        (lambda of: viz.side_by_side({"a": of.report}), r"looks\['a'\]=Report: give a Look"),
        (lambda of: viz.page({1: of}), "looks: the name 1 is no string"),
        (lambda of: viz.page([of]), "looks=list: give one Look, or several by name"),
        (lambda of: viz.staircase([of]), "looks=list: give one Look or Report, or several by name"),
        (lambda of: viz.stages(of, columns=0), "columns=0: panels"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(draw: Any, said: str) -> None:
    with pytest.raises(SparseSightError, match=said):
        draw(look(smooth(64, 48), MERGING, words=WORDS))


def test_an_animation_keeps_greys_grey_and_colours_apart() -> None:
    wheel = Image.new("HSV", (256, 256))
    wheel.putdata([(x, 255, y) for y in range(256) for x in range(256)])
    of = look(wheel.convert("RGB"), stage(16, [0, 1]))
    moving = Image.open(io.BytesIO(viz.animate(of, size=256, ms=500, steps=0)))
    moving.seek(1)
    found = np.asarray(moving.convert("RGB")).astype(int)[-80:-30, 30:-30]  # dropped
    drawn = np.asarray(viz.overlay(of, size=256)).astype(int)[-80:-30, 30:-30]
    assert (np.ptp(drawn, axis=-1) == 0).all() and (np.ptp(found, axis=-1) == 0).mean() > 0.98
    assert abs(found - drawn).max() <= 8


# Text
