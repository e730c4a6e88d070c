"""The pages about pictures name every family that can be drawn, and every name of the module."""

from __future__ import annotations

import re
from pathlib import Path

from sparsesight import viz
from sparsesight.families import FAMILIES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_guide_names_the_families_that_can_be_drawn() -> None:
    page = (DOCS / "howto/see.md").read_text("utf-8")
    stills, clips = page.split("Pictures (`llava` with")[1].split("Clips:")
    assert set(re.findall("`([a-z0-9_]+)`", stills.split("):", 1)[1])) == {
        name for name, family in FAMILIES.items() if family.layout
    }
    moving = {
        name
        for name, family in FAMILIES.items()
        if family.clips_drawn or family.clip_is_pictures or family.layout == "by_grid"
    }
    assert set(re.findall("`([a-z0-9_]+)`", clips)) == moving


def test_the_reference_has_every_name() -> None:
    page = (DOCS / "reference/bundled.md").read_text("utf-8")
    told = set(re.findall(r"^::: sparsesight\.(?:viz|core)\.\w+\.(\w+)$", page, re.M))
    for members in re.findall(r"members: \[(.*)\]", page):
        told |= set(members.split(", "))
    assert set(viz.__all__) <= told
