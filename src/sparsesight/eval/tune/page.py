"""A page of the rows whose answers a setting changed, with their pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from ...errors import SparseSightError
from ..own.rows import Row
from ..own.sources import Source
from .plan import Plan

MOST = 200  # rows that are shown
MOST_PICTURES = 4  # of a row
EDGE = 320  # pixels
STYLE = """body { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 1.5rem auto; padding: 0 1rem; }
article { display: flex; flex-wrap: wrap; gap: 1rem; border-top: 1px solid #ccc; padding: 1rem 0; }
img { max-width: 20rem; height: auto; } .text { flex: 1 1 18rem; overflow-wrap: anywhere; white-space: pre-wrap; }
dt { opacity: .7; } dd { margin: 0 0 .5rem; font-weight: 600; }"""


def changed_page(title: str, plan: Plan, changed: Sequence[tuple[int, int, str, str]]) -> str:
    """A self-contained page; whatever comes from rows and models is escaped.

    Args:
        title: the verdict.
        plan: whose items the rows are.
        changed: of :func:`~.result.changed`.
    """
    more = f"<p>The first {MOST} of them are shown.</p>" if len(changed) > MOST else ""
    shown = "".join(
        _article(plan.chunks[chunk].items[place].request, dense, other)
        for chunk, place, dense, other in changed[:MOST]
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Changed answers</title><style>{STYLE}</style>'
        f"<h1>{len(changed)} changed answers</h1><p>{escape(title)}</p>{more}{shown}</html>\n"
    )


def _article(row: Row, dense: str, other: str) -> str:
    pictures = "".join(map(_picture, row.sources[:MOST_PICTURES]))
    texts = (("question", row.question), ("dense", dense), ("sparse", other))
    said = "".join(f"<dt>{name}</dt><dd>{escape(text or '(nothing)')}</dd>" for name, text in texts)
    return f'<article>{pictures}<div class="text"><p>{escape(row.where)}</p><dl>{said}</dl></div></article>'


def _picture(source: Source) -> str:
    if source.clip:
        return f"<p>clip {escape(source.name)}</p>"
    try:
        image = source.image()
    except SparseSightError as error:
        return f"<p>{escape(str(error))}</p>"
    image.thumbnail((EDGE, EDGE))
    held = BytesIO()
    image.save(held, "JPEG", quality=85)
    data = base64.b64encode(held.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'
