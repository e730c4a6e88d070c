"""``sparsesight``, the command line. Subcommands are in :mod:`sparsesight.commands`.

A user's mistake ends in one line on standard error and exit code 2. Whatever else goes wrong is a bug, and keeps its
traceback.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import SparseSightError
from ..terminal import one_line
from ..torchvision_schemas import mend_before_transformers
from .ask import ask
from .bench import bench
from .demo import demo
from .doctor import doctor
from .eval import evaluate
from .examples import epilog, unwrapped
from .methods import methods
from .options import in_options
from .serve import PASS_ON, serve
from .tune import tune
from .variables import ignored

# Of what typer raises for a wrong option or argument. It was click's class, and in newer typers is one of their own.
WrongUse: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class PlainFlags:
    """A command whose help gives flags no type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, that of --help included."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in found:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return found


class Command(PlainFlags, TyperCommand):
    """A command of the program."""


class OneLineErrors(PlainFlags, TyperGroup):
    """A group of commands that reports a user's mistake, and only that, in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; in standalone mode, leave the process with its exit code."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            if not standalone_mode:
                return code
            if sys.stdout is not None:
                sys.stdout.flush()
        except (SparseSightError, WrongUse) as error:
            if not standalone_mode:
                raise
            _fail(error, sys.argv[1:] if args is None else args)
        except typer.Abort:  # how older typers report an interruption
            if not standalone_mode:
                raise
            sys.exit(130)
        except OSError as error:
            if not standalone_mode or not (_gives_up(sys.stdout) | _gives_up(sys.stderr)):
                raise
            _fail(
                SparseSightError(
                    f"what it prints cannot be written ({error.strerror}): make room, or print it elsewhere"
                )
            )
        sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Any, args: Sequence[str] = ()) -> NoReturn:
    message = in_options(str(error), args)
    if isinstance(error, WrongUse):
        message = error.format_message().rstrip(".")
        if near := getattr(error, "possibilities", None):
            message = f"{error.message.rstrip('.')}. Did you mean {near[0]!r}?"
        if error.ctx is not None:
            message += f" (see {error.ctx.command_path} --help)"
    try:
        typer.echo(f"error: {one_line(message)}", err=True)
    except OSError:
        _gives_up(sys.stderr)
    sys.exit(2)


def _gives_up(stream: Any) -> bool:
    """Whether a stream takes not even a line break; what it holds is then dropped, or Python would fail at its end."""
    try:
        if stream is not None:
            stream.write("\n")  # one without a buffer has nothing to flush
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


app = typer.Typer(
    cls=OneLineErrors,
    epilog=epilog(""),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ask", cls=Command)(ask)
app.command("methods", cls=Command)(methods)
app.command("bench", cls=Command)(bench)
app.command("eval", cls=Command)(evaluate)
app.command("tune", cls=Command)(tune)
app.command("demo", cls=Command)(demo)
app.command("serve", cls=Command, context_settings=PASS_ON)(serve)
app.command("doctor", cls=Command)(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"sparsesight {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _sparsesight(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Make vision-language models faster: drop the visual tokens that the question does not need."""
    name = context.invoked_subcommand
    if name is None:
        typer.echo(context.get_help())
    elif name != "doctor" and name in context.command.commands:  # type: ignore[attr-defined]
        params = context.command.commands[name].params  # type: ignore[attr-defined]
        if text := ignored(name, [param.envvar for param in params if isinstance(param.envvar, str)]):
            typer.echo(f"note: {one_line(text)}", err=True)


for _command in app.registered_commands:
    _command.help = unwrapped(_command.callback)
    _command.epilog = epilog(_command.name or "")


def main() -> None:
    """The ``sparsesight`` program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal cannot show must not end the program
            stream.reconfigure(errors="replace")
    mend_before_transformers()
    # transformers imports torchao where it is installed, which then warns of kernels that no CPU has.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    app(prog_name="sparsesight")


if __name__ == "__main__":
    main()
