"""Draws kept patches as text for a terminal."""

from __future__ import annotations

import numpy as np

from .record import Look, checked

# One character for two patches, one above the other: neither kept, the upper, the lower, both.
BLOCKS, ASCII = "·▀▄█", " '.:"


def legend(ascii_only: bool = False) -> str:
    """What the characters of :func:`text` mean, in one line."""
    none, upper, lower, both = (
        repr(sign) if ascii_only else sign for sign in (ASCII if ascii_only else BLOCKS)
    )
    return (
        f"a character is two patches: {both} both kept, {upper} the upper, {lower} the lower, {none} neither"
    )


def text(look: Look, *, width: int = 80, ascii_only: bool = False) -> str:
    """The patches that each stage kept, in characters that are one patch wide and two patches high.

    Captions are short, so that three stages of 24 x 24 patches fit 80 columns: ``layer 5: 66+8 of 576`` means 66 kept
    and 8 merged tokens.

    Args:
        look: several pictures, tiles and frames follow one another.
        width: columns to fill; stages that do not fit go below.
        ascii_only: for terminals without block characters.

    Returns:
        Lines without colour or trailing newline; empty if no stage pruned.
    """
    signs = ASCII if ascii_only else BLOCKS
    parts = []
    views = [view for picture in checked(look).pictures for view in picture.views]
    for number, view in enumerate(views):
        blocks = []
        for stage in look.stages:
            where = "before layer 0" if stage.layer < 0 else f"layer {stage.layer}"
            caption = f"{where}: {stage.counts(short=True)}"
            mask = view.spread(stage.kept, 0) > 0
            even = np.pad(mask, ((0, view.rows % 2), (0, 0)))
            pairs = even[0::2] + 2 * even[1::2].astype(int)
            blocks.append([caption if not number else "", *("".join(signs[x] for x in row) for row in pairs)])
        parts.append(
            _beside(blocks, max([view.columns, *(len(block[0]) for block in blocks)]), width, view.name)
        )
    return "\n\n".join(part for part in parts if part)


def _beside(blocks: list[list[str]], broad: int, width: int, name: str) -> str:
    """Blocks of lines side by side, as many as fit."""
    beside = max((width + 2) // (broad + 2), 1)
    rows = []
    for i in range(0, len(blocks), beside):
        lines = zip(*blocks[i : i + beside], strict=True)
        said = ["  ".join(part.ljust(broad) for part in line).rstrip() for line in lines]
        rows.append("\n".join(line for line in ([name] if name and not i else []) + said if line or not name))
    return "\n\n".join(rows)
