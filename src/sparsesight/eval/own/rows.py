"""Own data: rows of pictures and a question, from JSONL, CSV, a folder of pictures, or a dataset on disk.

A row has ``image``, ``images`` or ``video`` (paths relative to the file), ``question`` or chat ``messages``, in all
rows or in none ``answer``, and, where rows come from one source, ``group``. Files may come from anybody: sizes, counts
and paths are bounded, and all that is wrong is found before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import SparseSightError, brief
from ..records import Item
from .sources import Source

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ROWS = 100_000
MAX_PICTURES = 64  # of a row
MAX_MESSAGES = 64
MAX_TEXT = 100_000  # characters of a row's texts together
MAX_GROUP = 1000  # characters
NAMED = 5  # bad rows of which a message says what is wrong
PLACES = 100  # further ones that it names
ROLES = ("system", "user", "assistant")

Place = Callable[[str, Any], list[Source]]  # the sources of a field's value


@dataclass(frozen=True)
class Row:
    """A question about pictures.

    Attributes:
        where: file and line, for messages.
        number: of the line, from 1; of a picture in a folder or a row of a dataset, its own.
        turns: roles and contents; a content is texts and sources in their order.
        answer: as given.
        group: as given, by its text; "" for none.
        unit: the same for rows that share pictures or a group, directly or through other rows.
        content: of its pictures, as :meth:`~.sources.File.content`.
    """

    where: str
    number: int
    turns: tuple[tuple[str, tuple[str | Source, ...]], ...]
    answer: str | None = None
    group: str = ""
    unit: str = ""
    content: tuple[str, ...] = ()

    @property
    def sources(self) -> list[Source]:
        return [part for _, content in self.turns for part in content if not isinstance(part, str)]

    @property
    def question(self) -> str:
        """The text of the last turn."""
        return "\n".join(part for part in self.turns[-1][1] if isinstance(part, str))

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as :class:`~sparsesight.eval.prompts.Prompts` takes it; pictures are opened.

        Raises:
            SparseSightError: a picture that is damaged behind its header.
        """
        return [
            {
                "role": role,
                "content": [{"type": "text", "text": x} if isinstance(x, str) else x.part() for x in content],
            }
            for role, content in self.turns
        ]


def make_item(row: Row) -> Item:
    """A row as an item of a task; rows of one unit stay together."""
    return Item(
        id=f"{row.number:06d}",
        question=row.question,
        target=row.answer,
        unit=row.unit,
        content=repr(
            ([(role, [x for x in parts if isinstance(x, str)]) for role, parts in row.turns], row.content)
        ),
        request=row,
    )


def make_row(fields: Mapping[str, Any], where: str, number: int, place: Place) -> Row:
    """A row from its fields.

    Raises:
        SparseSightError: what the fields lack, or what is wrong with one; without ``where``.
    """
    given = [name for name in ("image", "images", "video") if _there(fields.get(name))]
    if len(given) != 1:
        raise SparseSightError(
            f"has {' and '.join(given) or 'no picture'}: give one of image, images (a list) and video"
        )
    value = fields[given[0]]
    if given[0] == "images" and not (isinstance(value, list) and value):
        raise SparseSightError(f"images={brief(value)}: give a list of pictures")
    if given[0] == "images" and len(value) > MAX_PICTURES:
        raise SparseSightError(f"images: {len(value)} are more than the limit of {MAX_PICTURES}")
    sources = place(given[0], value)
    if _there(fields.get("question")) == _there(fields.get("messages")):
        raise SparseSightError("give either question or messages")
    if _there(fields.get("messages")):
        turns = _turns(fields["messages"], sources)
    else:
        turns = (("user", (*sources, _text(fields["question"], "question"))),)
    size = sum(len(part) for _, content in turns for part in content if isinstance(part, str))
    if size > MAX_TEXT:
        raise SparseSightError(f"its text has {size:,} characters, more than the limit of {MAX_TEXT:,}")
    answer, group = (_short(fields, name) for name in ("answer", "group"))
    if group and len(group) > MAX_GROUP:
        raise SparseSightError(f"group: {len(group):,} characters are more than the limit of {MAX_GROUP:,}")
    for text in (
        answer or "",
        group or "",
        *(x for _, content in turns for x in content if isinstance(x, str)),
    ):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise SparseSightError(
                f"{brief(text)} holds half of a character (a surrogate): write it whole"
            ) from None
    answer = answer if answer and answer.strip() else None
    return Row(where, number, turns, answer, (group or "").strip())


def collect(made: Iterable[tuple[str, Callable[[], Row]]], what: str, limit: int | None = None) -> list[Row]:
    """All rows, with every bad one of them named, and their pictures checked by their headers.

    Args:
        made: for each row its place, and what makes it.
        what: the data as a whole, for messages.
        limit: rows to take, the first ones; None for all.

    Raises:
        SparseSightError: naming the bad rows; no rows at all, too many, or answers in some of them only.
    """
    rows: list[Row] = []
    wrong: list[tuple[str, str]] = []
    checked: dict[str, str] = {}
    for where, make in made:
        if limit is not None and len(rows) + len(wrong) >= limit:
            break
        if len(rows) + len(wrong) >= MAX_ROWS:
            raise SparseSightError(f"{what} has more than {MAX_ROWS:,} rows: split it")
        try:
            row = make()
            for source in row.sources:
                if source.name not in checked:
                    source.check()
                    checked[source.name] = source.content()
            rows.append(replace(row, content=tuple(checked[source.name] for source in row.sources)))
        except SparseSightError as error:
            wrong.append((where, str(error)))
    if wrong:
        raise SparseSightError(f"{what}: {_cannot_be_asked(wrong, len(rows) + len(wrong))}")
    if not rows:
        raise SparseSightError(f"{what} has no rows: write one JSON object per line, with image and question")
    without = [row for row in rows if row.answer is None]
    if without and len(without) < len(rows):
        raise SparseSightError(
            f"{what}: {len(without)} of {len(rows)} rows have no answer, the first is {without[0].where}: give all an "
            "answer, or none"
        )
    return _with_units(rows)


def decoded(
    rows: Sequence[Row], progress: Callable[[Row], None] = lambda row: None
) -> Iterator[tuple[Row, Image]]:
    """Every picture of the rows once, decoded, with the first row that shows it; clips are not opened.

    Args:
        rows: of one data set.
        progress: called with each row whose pictures were read.

    Raises:
        SparseSightError: after the last one, if pictures are damaged behind their headers; naming the rows.
    """
    seen: set[str] = set()
    damaged: dict[str, str] = {}
    wrong: list[tuple[str, str]] = []
    for row in rows:
        for source, content in zip(row.sources, row.content, strict=True):
            if content in seen or source.clip:
                continue
            seen.add(content)
            try:
                picture = source.image()
            except SparseSightError as error:
                damaged[content] = str(error)
            else:
                yield row, picture
        why = next((damaged[content] for content in row.content if content in damaged), None)
        if why is not None:
            wrong.append((row.where, why))
        progress(row)
    if wrong:
        raise SparseSightError(_cannot_be_asked(wrong, len(rows)))


def _cannot_be_asked(wrong: Sequence[tuple[str, str]], count: int) -> str:
    """What is wrong with the first of ``count`` rows, and where the others are."""
    told = "; ".join(f"{where}: {why}" for where, why in wrong[:NAMED])
    others = [where for where, _ in wrong[NAMED:]]
    if others:
        more = f" and {len(others) - PLACES:,} more" if len(others) > PLACES else ""
        told += f"; as well as {', '.join(others[:PLACES])}{more}"
    return f"{len(wrong)} of {count} rows cannot be asked: {told}"


def _with_units(rows: Sequence[Row]) -> list[Row]:
    """Rows that share pictures or a group get one unit, which is named after the pictures of the first of them."""
    parent = list(range(len(rows)))

    def first(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        for shared in (*row.content, *((f"group {row.group}",) if row.group else ())):
            one, other = first(seen.setdefault(shared, number)), first(number)
            parent[max(one, other)] = min(one, other)
    names = ["|".join(sorted({source.name for source in row.sources})) for row in rows]
    return [replace(row, unit=names[first(number)]) for number, row in enumerate(rows)]


def unit_noun(rows: Sequence[Row]) -> str:
    """What a unit of rows is: a question where each is its own; else a picture or clip, or a group of rows."""
    if len({row.unit for row in rows}) == len(rows):
        return "question"
    if any(row.group or len(row.sources) > 1 for row in rows):
        return "group"
    clips = [getattr(source, "clip", False) for row in rows for source in row.sources]
    return "clip" if all(clips) else "group" if any(clips) else "picture"


def _short(fields: Mapping[str, Any], name: str) -> str | None:
    """A field that is a text, or a number by its digits; None if it is not there."""
    value = fields.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise SparseSightError(f"{name}={brief(value)}: write it as text")
    return value


def _there(value: Any) -> bool:
    return value is not None and value != ""


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SparseSightError(f"{name}={brief(value)}: write it as text")
    return value


def _turns(messages: Any, sources: Sequence[Source]) -> tuple[tuple[str, tuple[str | Source, ...]], ...]:
    """Turns of a chat.

    Its contents are texts, or lists of ``{"type": "text", "text": ...}`` and of ``{"type": "image"}`` (or ``"video"``),
    which stand for the row's pictures in their order; without those, pictures come before the text of the first user's
    turn.
    """
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise SparseSightError(f"messages={brief(messages)}: give a list of 1 to {MAX_MESSAGES} messages")
    found: list[tuple[str, list[str | None]]] = []  # None stands for a picture
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise SparseSightError(f"messages: {brief(message)} has no role of {', '.join(ROLES)}")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        found.append((role, [_part(part) for part in parts]))
    if found[-1][0] != "user":
        raise SparseSightError(
            f"messages end with a turn of the {found[-1][0]}: the last is the user's question"
        )
    places = sum(part is None for _, parts in found for part in parts)
    if not places:
        next(parts for role, parts in found if role == "user")[:0] = [None] * len(sources)
    elif places != len(sources):
        raise SparseSightError(f"messages have {places} pictures, the row has {len(sources)}")
    rest = iter(sources)
    return tuple((role, tuple(next(rest) if x is None else x for x in parts)) for role, parts in found)


def _part(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return _text(part.get("text"), "text of a message")
    if kind in ("image", "video") and part.keys() == {"type"}:
        return None
    raise SparseSightError(
        f'messages: {brief(part)}: write {{"type": "text", "text": ...}} or {{"type": "image"}}, and the path in the '
        "row's image or images"
    )
