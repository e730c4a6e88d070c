"""HTML pages, and the HTML representation of a look in notebooks."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image, features

from ..errors import SparseSightError
from ..report import by_layers, html_summary, html_table
from .chart import staircase, svg
from .colours import KEPT, RATES, web
from .draw import scored, side_by_side, signed
from .legend import Sign, in_order
from .prompt_tokens import Word
from .record import Look, by_name

STYLE = f"""
.sparsesight {{ font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; color: inherit; }}
.sparsesight h2 {{ font-size: 1.1rem; margin: 1.6rem 0 .5rem; }}
.sparsesight p {{ margin: .4rem 0; }}
.sparsesight .prompt {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.sparsesight .prompt .visual {{ opacity: .7; font-size: .85em; border: 1px solid; padding: 0 .3em;
  border-radius: 3px; }}
.sparsesight mark {{ background: {web(RATES)}; color: #000; border-bottom: 2px solid #000; }}
.sparsesight img {{ max-width: 100%; height: auto; display: block; }}
.sparsesight .row {{ display: flex; flex-wrap: wrap; gap: 12px; }}
.sparsesight figure {{ margin: 0; flex: 0 1 18rem; }}
.sparsesight figcaption {{ font-size: .87em; opacity: .8; }}
.sparsesight table {{ border-collapse: collapse; }}
.sparsesight th, .sparsesight td {{ padding: .15rem .8rem .15rem 0; text-align: right;
  font-variant-numeric: tabular-nums; }}
.sparsesight th:first-child, .sparsesight td:first-child {{ text-align: left; font-weight: normal; }}
.sparsesight thead th {{ border-bottom: 1px solid; }}
.sparsesight .paper {{ background: #fff; border-radius: 4px; max-width: 36rem; }}
.sparsesight .paper svg {{ max-width: 100%; height: auto; display: block; }}
.sparsesight .key span {{ display: inline-block; box-sizing: border-box; width: 1em; height: 1em;
  margin: 0 .35em 0 .9em; vertical-align: -.1em; }}
.sparsesight input.stage {{ position: absolute; opacity: 0; }}
.sparsesight input.stage + label {{ display: inline-block; padding: .2em .7em; margin: 0 .3em .5em 0; cursor: pointer;
  border: 1px solid; border-radius: 4px; }}
.sparsesight input.stage:checked + label {{ background: {web(KEPT)}; border-color: {web(KEPT)}; color: #fff; }}
.sparsesight input.stage:focus-visible + label {{ outline: 2px solid currentColor; outline-offset: 2px; }}
.sparsesight .pane {{ display: none; }}
"""
PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; padding: 1rem; background: Canvas; color: CanvasText; }
h1 { font: 600 1.4rem/1.3 system-ui, sans-serif; margin: 0 0 .6rem; }
"""
Looks = Look | Mapping[str, Look]


def page(
    looks: Looks, *, title: str = "What the question kept", answers: Mapping[str, str] | None = None
) -> str:
    """A self-contained HTML page in one file, without network access, for light and dark mode and any width.

    Args:
        looks: one, or several by name, which are shown side by side first, then one after the other.
        title: of the page.
        answers: answers by name, such as ``{"dense": "K", "sparse": "K"}``.

    Raises:
        SparseSightError: there are no looks.
    """
    named = by_name(looks, single=True)
    body = [f"<h1>{escape(title)}</h1>", '<div class="sparsesight">']
    first = next(iter(named.values()))
    body += [_prompt(first.words), _answers(answers or {})]
    if len(named) > 1:
        shared = side_by_side(named)
        body.append("<h2>Side by side, after the last stage</h2>" + _image(shared, "What each method kept"))
        body.append("<h2>Visual tokens entering each layer</h2>" + _stairs(named))
    for name, look in named.items():
        body.append(_body(look, name, alone=len(named) == 1))
    body.append("</div>")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def fragment(look: Look) -> str:
    """A look as HTML for a notebook."""
    return f'<div class="sparsesight"><style>{STYLE}</style>{_prompt(look.words)}{_body(look, "", alone=True)}</div>'


def _body(look: Look, name: str, *, alone: bool) -> str:
    heading = f"<h2>{escape(name.splitlines()[0])}</h2>" if name else ""
    parts = [heading, html_summary(look.report), _stages(look)]
    numbers = [i for i, stage in enumerate(look.stages) if stage.told_apart]
    if numbers:
        maps = "".join(
            f"<figure>{_image(scored(look, i, size=400, clear=True)[0], f'scores of stage {i + 1}')}"
            f"<figcaption>{escape(look.stages[i].where)}: {escape(look.stages[i].meaning.scores)}, blue to yellow"
            "</figcaption></figure>"
            for i in numbers
        )
        parts.append(f'<h2>Scores</h2><div class="row">{maps}</div>')
    if alone:
        parts.append("<h2>Visual tokens entering each layer</h2>" + _stairs({"": look}))
    return "\n".join([*parts, html_table(look.report)])


def _stages(look: Look) -> str:
    """The picture and every stage, one at a time, by buttons that need no script."""
    own = f"s{uuid.uuid4().hex[:10]}"
    choices: Sequence[int | None] = [None, *range(len(look.stages))]
    names = ["picture", *(stage.where for stage in look.stages)]
    said = [f"{look.visual} visual tokens", *(stage.said for stage in look.stages)]
    buttons, panes, rules, signs = [], [], [], set[Sign]()
    for i, (choice, name, count) in enumerate(zip(choices, names, said, strict=True)):
        checked = " checked" if i == len(choices) - 1 else ""
        buttons.append(
            f'<input class="stage" type="radio" name="{own}" id="{own}-{i}"{checked}>'
            f'<label for="{own}-{i}">{escape(name)}</label>'
        )
        picture, found = signed(look, choice, size=640, clear=True)
        signs |= found
        shown = _image(picture, f"{name}: {count}")
        panes.append(f'<div class="pane p{i}">{shown}<p>{escape(name)}: {escape(count)}</p></div>')
        rules.append(f"#{own}-{i}:checked ~ .p{i} {{ display: block; }}")
    key = "".join(f'<span style="{sign.css()}"></span>{escape(sign.name)}' for sign in in_order(signs))
    return (
        f"<style>{' '.join(rules)}</style><div>{''.join(buttons)}{''.join(panes)}</div>"
        f'<p class="key" aria-label="legend">{key}</p>'
    )


def _prompt(words: Sequence[Word]) -> str:
    if not words:
        return ""
    parts = []
    for word in words:
        if word.template and word.text.strip():
            continue
        text = escape(word.text)
        if word.visual:
            parts.append(f'<span class="visual">{word.visual} visual tokens</span>')
        elif word.rates and word.text.strip():
            inner = text.lstrip(" ")
            parts.append(f"{text[: len(text) - len(inner)]}<mark>{inner}</mark>")
        else:
            parts.append(text)
    judged = any(word.rates and not word.template for word in words)
    note = "<p><mark>marked</mark>: the tokens that judged</p>" if judged else ""
    return f'<p class="prompt">{"".join(parts)}</p>{note}'


def _answers(answers: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(who)}</td><td><strong>{escape(said)}</strong></td></tr>"
        for who, said in answers.items()
    )
    return f"<table>{rows}</table>" if rows else ""


def _stairs(looks: Mapping[str, Look]) -> str:
    """The chart, or the counts if matplotlib is missing."""
    try:
        return f'<div class="paper">{svg(staircase(looks))}</div>'
    except SparseSightError:
        lines = (f"{name} {by_layers(look.per_layer)}".strip() for name, look in looks.items())
        return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _image(picture: Image.Image, alt: str) -> str:
    out = io.BytesIO()
    kind = "webp" if features.check("webp") else "png"
    picture.save(out, kind, **({"quality": 88} if kind == "webp" else {}))
    data = base64.b64encode(out.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="data:image/{kind};base64,{data}" {size} alt="{escape(alt)}">'
