"""What commands show on standard error while they load a model or work through many runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..bundled import NAMES
from ..terminal import plain, rich_text

if TYPE_CHECKING:
    from rich.console import Console

    from ..hf.loading import Loaded


@contextmanager
def loaded_model(
    console: Console,
    model: str | None,
    device: str,
    dtype: str,
    trust_remote_code: bool = False,
    text_tower: str | None = None,
) -> Iterator[Loaded]:
    """Load a model (None: the bundled one); until the end of the block, libraries print no more than download bars."""
    from ..hf.loading import load_model, quiet

    text = rich_text(f"loading {'the bundled model' if model is None else model}")
    local = model is None or model in NAMES or os.path.exists(os.path.expanduser(model))
    download = not local and console.is_terminal
    with quiet(bars=download):
        if download:
            console.print(text)  # a spinner would fight with the download bars
            loaded = load_model(model, device, dtype, trust_remote_code, text_tower)
        else:
            with console.status(text):
                loaded = load_model(model, device, dtype, trust_remote_code, text_tower)
        yield loaded


@contextmanager
def progress_bar(total: int, text: str = "", shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar; what it yields advances it, by 1 or by ``count``, and may change its text."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        bar = progress.add_task(text, total=total)

        def advance(count: int = 1, text: str | None = None) -> None:
            progress.update(bar, advance=count, description=None if text is None else plain(text))

        yield advance
