"""``sparsesight ask``: the dense answer next to the sparse one."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import SparseSightError
from ..files import replace_file
from ..method_names import DEFAULT
from ..terminal import echo
from .options import (
    RETAIN,
    AsJson,
    Device,
    Dtype,
    Layers,
    MaxNewTokens,
    Model,
    Settings,
    TrustRemoteCode,
    build_method,
    choose_method,
    complete_method,
    given_retain,
    parse_layers,
    settings_method,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..compare import Comparison

PICTURE_SUFFIXES = (".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PAGES = (".html", ".htm")
DRAWINGS = (".svg", ".pdf")


def ask(
    image: str | None = typer.Argument(
        None, metavar="IMAGE", help="A picture file.", show_default="a bundled picture"
    ),
    question: str | None = typer.Argument(
        None, metavar="QUESTION", help="A question about it.", show_default="one about the bundled picture"
    ),
    model: Model = None,
    method: str | None = typer.Option(
        None,
        autocompletion=complete_method,
        help="A method that 'sparsesight methods' lists.",
        show_default=DEFAULT,
    ),
    retain: str | None = typer.Option(
        None,
        help="Visual tokens to keep: the average per layer (64), a ratio of all (0.33 or 33%), or counts after each "
        "stage (320,80).",
        show_default=f"{RETAIN}, or the published setting's own",
    ),
    layers: Layers = None,
    settings: Settings = None,
    max_new_tokens: MaxNewTokens = 64,
    as_json: AsJson = False,
    save: Path | None = typer.Option(
        None,
        help="Save the answers and the kept tokens: as one figure (kept.png, kept.svg), as an animation (kept.gif), "
        "or as a page with scores and raters (kept.html).",
        show_default=False,
    ),
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer a question about a picture, dense and sparse, and show which visual tokens were kept.

    --method sparsevlm:published is SparseVLM as published, at one of its published
    budgets; 'sparsesight methods' lists which methods have such a setting.

    Environment: RETAIN_TOKN=64 is a default for --retain, and USE_VERSION=1_0
    (sparsevlm:published) or 2_0 (sparsevlm+:published) one for --method.
    """
    # Wrong arguments are found before anything slow begins.
    if settings is None:
        budget = given_retain(retain)
        name = choose_method(method)
        pruning = None if layers is None else parse_layers(layers)
    path, picture, question = _picture_and_question(image, question)
    if save is not None:
        try:
            _check_target(save)
        except OSError as error:  # of a name that is longer than any can be
            raise SparseSightError(f"--save {str(save)!r} cannot be written ({error.strerror})") from None

    from rich.console import Console

    from .progress import loaded_model

    console = Console(stderr=True)
    # Code that prints, such as a checkpoint's own, must not mix with the answer.
    with redirect_stdout(sys.stderr):
        with console.status("starting"):
            from ..compare import compare, prepare

            if settings is None:
                chosen = build_method(name, budget, pruning)
            else:
                chosen = settings_method(settings, method=method, retain=retain, layers=layers)
        with (
            loaded_model(console, model, device, dtype, trust_remote_code) as loaded,
            console.status("asking, with all visual tokens and with few"),
        ):
            result = compare(loaded, prepare(loaded, picture, question), chosen, max_new_tokens, picture)
    saved = save if result.look is not None else None
    if saved is not None:
        _save(saved, result, question)
    if as_json:
        facts = {
            "question": question,
            "image": str(path),
            "model": loaded.name,
            "method": chosen.to_dict(),
            "dense": asdict(result.dense),
            "sparse": asdict(result.sparse),
            "agree": result.agree,
            "report": result.report.to_dict(),
            "kept": result.kept,
            "merged": result.merged,
            "saved": None if saved is None else str(saved),
        }
        typer.echo(json.dumps(facts))
        if save is not None and saved is None:
            echo(f"note: {result.why_not}", err=True)
        return
    from .rendering import show

    show(result, picture=str(path), question=question, model=loaded.name)
    if saved is not None:
        echo(f"\nsaved {saved}")


def _picture_and_question(image: str | None, question: str | None) -> tuple[Path, Image, str]:
    """The picture and the question; a lone question is about the bundled picture.

    Raises:
        SparseSightError: a picture that cannot be opened, or one without a question.
    """
    from .. import bundled
    from ..images import open_image

    if image is not None and question is None and _is_question(image):
        image, question = None, image
    if image is None:
        path = bundled.default_picture()
        question = question or bundled.picture_questions()[path.name][0]["question"]
        return path, open_image(path), question
    picture = open_image(image)
    if question is None:
        raise SparseSightError(
            f'no question was given about {image!r}: write sparsesight ask {image!r} "QUESTION"'
        )
    return Path(image), picture, question


def _is_question(text: str) -> bool:
    """Whether a lone argument is a question rather than a file name."""
    try:
        exists = Path(text).exists()
    except OSError:  # longer than a file name can be
        exists = False
    return not exists and len(text.split()) > 1 and Path(text).suffix.lower() not in PICTURE_SUFFIXES


def _check_target(save: Path) -> None:
    """Check that the picture can be saved, before it is computed."""
    from PIL import Image

    if save.is_dir():
        raise SparseSightError(f"--save {str(save)!r} is a directory: name a file in it, such as kept.png")
    extensions = Image.registered_extensions()  # also loads the formats
    suffix = save.suffix.lower()
    if suffix not in (*PAGES, *DRAWINGS) and extensions.get(suffix) not in Image.SAVE:
        raise SparseSightError(
            f"--save {str(save)!r}: end the file name in .html, .gif, .svg or a picture format such as .png"
        )
    if suffix in DRAWINGS and not _plots():
        raise SparseSightError(
            f"--save {str(save)!r} needs matplotlib: pip install 'sparsesight[plots]', or end the name in .png"
        )
    if save.is_symlink() or (save.exists() and not save.is_file()):
        raise SparseSightError(
            f"--save {str(save)!r} is a link or not a regular file, nothing is written through those: name another one"
        )
    if not save.parent.is_dir():
        raise SparseSightError(f"--save {str(save)!r}: the directory does not exist, create it first")
    if not os.access(save if save.exists() else save.parent, os.W_OK):
        raise SparseSightError(f"--save {str(save)!r} cannot be written: choose another place")


def _plots() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _save(save: Path, result: Comparison, question: str) -> None:
    from PIL import Image

    from .. import viz
    from ..viz.figure import figure_file

    if result.look is None:
        raise SparseSightError(f"--save {str(save)!r}: {result.why_not}")
    answers = {"dense": result.dense.answer, "sparse": result.sparse.answer}
    suffix = save.suffix.lower()
    vector = suffix in DRAWINGS
    try:
        if suffix in PAGES:
            data: str | bytes = viz.page(result.look, title=question, answers=answers)
        elif suffix == ".gif":
            data = viz.animate(result.look)
        else:
            data = figure_file(result.look, question, answers, suffix[1:] if vector else "png")
            if not vector and suffix != ".png":
                picture = Image.open(BytesIO(data)).convert("RGB")
                picture.save(drawn := BytesIO(), format=Image.registered_extensions()[suffix])
                data = drawn.getvalue()
        replace_file(save, data)
    except (SparseSightError, OSError) as error:
        raise SparseSightError(f"--save {str(save)!r} cannot be written: {error}") from None
