"""``sparsesight serve``: vLLM's OpenAI-compatible server, set up to prune."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import typer

from ..errors import SparseSightError
from ..method_names import DEFAULT
from ..terminal import echo
from .options import (
    RETAIN,
    Layers,
    Settings,
    build_method,
    choose_plain_method,
    choose_retain,
    complete_method,
    parse_layers,
    settings_method,
)

if TYPE_CHECKING:
    from ..methods import Method
    from ..vllm.serving import Addition

SERVER = "sparsesight.vllm.server"
# Other options go to vLLM unchanged, so no single letter may be parsed as one of ours.
PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--help"]}


def serve(
    context: typer.Context,
    model: str = typer.Argument(
        ...,
        metavar="MODEL",
        help="A folder, a Hugging Face Hub id, or a model of this package: 'bundled', or 'smol' with the extra smol.",
    ),
    method: str | None = typer.Option(
        None,
        autocompletion=complete_method,
        help="A method that 'sparsesight methods' lists, with options in brackets: sparsevlm+(heads=0.5).",
        show_default=DEFAULT,
    ),
    retain: str | None = typer.Option(
        None,
        help="Visual tokens to keep: the average per layer (64), a ratio of all (0.33 or 33%), or counts after each "
        "stage (320,80); 'none' prunes only requests that set a budget. A request may set its own budget.",
        show_default=str(RETAIN),
    ),
    layers: Layers = None,
    settings: Settings = None,
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Check the options, print the vLLM command, and stop."
    ),
) -> None:
    """Serve a model with vLLM's OpenAI-compatible server, with visual tokens pruned inside it.

    Options that cannot work are refused before the model is loaded. Flags that pruning needs are set, and printed with
    the reason. All other options are those of 'vllm serve' (--port, --max-model-len, ...); python -m
    sparsesight.vllm.server --help=all lists them.

    Environment: RETAIN_TOKN=64 is a default for --retain, and USE_VERSION=1_0 (sparsevlm) or 2_0 (sparsevlm+) one for
    --method.
    """
    if model == "-h" or "-h" in context.args:
        typer.echo(context.get_help())
        return
    if model.startswith("-"):
        raise SparseSightError(f"MODEL comes first: sparsesight serve MODEL {model} ...")
    if any(word == "--model" or word.startswith("--model=") for word in context.args):
        raise SparseSightError(f"--model: the model is named once, and is {model!r}")
    if settings is None:
        chosen = _method(choose_plain_method(method, "serve"), retain, layers)
    else:
        chosen = settings_method(settings, method=method, retain=retain, layers=layers)
    from ..vllm.serving import installed_version

    version = installed_version()
    arguments, variables, added = _complete(model, chosen, context.args)
    echo(f"sparsesight serves {model} with {chosen} in vLLM {version}, and sets", err=True)
    for addition in added:
        words = "=".join(addition.words) if addition.is_variable else shlex.join(addition.words)
        echo(f"  {words}\n      {addition.why}", err=True)
    if dry_run:
        echo(shlex.join([*(f"{k}={v}" for k, v in variables.items()), "python", "-m", SERVER, *arguments]))
        return
    sys.stdout.flush()
    sys.stderr.flush()
    # Replaces this process, so that signals and the exit code are vLLM's. No shell reads the arguments.
    os.execve(  # nosec B606
        sys.executable, [sys.executable, "-m", SERVER, *arguments], {**os.environ, **variables}
    )


def _method(name: str, retain: str | None, layers: str | None) -> Method:
    """The requested method.

    Raises:
        SparseSightError: an unknown method, or one that vLLM does not support.
    """
    from ..methods import parse
    from ..settings import DENSE

    own = "retain=" in name.replace(" ", "") or not parse(name).one_budget
    if retain is not None and retain.strip().lower() == DENSE:
        budget: Any = 1.0
    elif retain is None and own:
        budget = None  # that of the brackets, whatever the environment says
    else:
        budget = choose_retain(retain)
    return build_method(name, budget, None if layers is None else parse_layers(layers))


def _complete(
    model: str, method: Method, given: list[str]
) -> tuple[list[str], dict[str, str], list[Addition]]:
    """All arguments of vLLM's server and the variables to set, checked; and those that were added.

    Raises:
        SparseSightError: the combination cannot work.
    """
    from rich.console import Console

    from .. import bundled
    from ..vllm.serving import Parser, for_our_model, needed
    from ..vllm.settings import records_graphs

    own = dict(os.environ)
    try:
        with Console(stderr=True).status("asking vLLM"):
            os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # the server will say it all again
            parser = Parser()
            path = str(bundled.folder(model)) if model in bundled.NAMES else model
            chosen = parser.chosen([path, *given])
            added = needed(chosen, method, own, records_graphs())
            if model in bundled.NAMES:
                added += for_our_model(model, chosen, own)
            variables = {x.words[0]: x.words[1] for x in added if x.is_variable}
            flags = [word for x in added if not x.is_variable for word in x.words]
            arguments = [path, *given, *flags]
            os.environ.update(variables)
            parser.check(arguments, method)
    finally:
        os.environ.clear()
        os.environ.update(own)
    return arguments, variables, added
