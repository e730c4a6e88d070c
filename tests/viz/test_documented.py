"""The pages about pictures name every family that can be drawn, and every name of the module."""

from __future__ import annotations

import re
from pathlib import Path

from sparsesight import viz
from sparsesight.viz.clips import FRAMED, ROWS_OF_PICTURES
from sparsesight.viz.token_layouts import RULES, by_grid

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_guide_names_the_families_that_can_be_drawn() -> None:
    page = (DOCS / "howto/see.md").read_text("utf-8")
    stills, clips = page.split("Pictures (`llava` with")[1].split("Clips:")
    assert set(re.findall("`([a-z0-9_]+)`", stills.split("):", 1)[1])) == set(RULES)
    moving = {*FRAMED, *ROWS_OF_PICTURES, *(name for name, rule in RULES.items() if rule is by_grid)}
    assert set(re.findall("`([a-z0-9_]+)`", clips)) == moving


def test_the_reference_has_every_name() -> None:
    page = (DOCS / "reference/bundled.md").read_text("utf-8")
    told = set(re.findall(r"^::: sparsesight\.viz\.\w+\.(\w+)$", page, re.M))
    for members in re.findall(r"members: \[(.*)\]", page):
        told |= set(members.split(", "))
    assert set(viz.__all__) <= told
