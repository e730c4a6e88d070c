"""What may go wrong while a checkpoint is loaded, said in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SparseSightError, panicked
from ..hub import NOT_REACHED, NOT_THERE
from ..torchvision_schemas import remedy
from .running import out_of_memory


@contextmanager
def one_sentence(title: str, local: bool) -> Iterator[None]:
    """Around loading a checkpoint, which fails in many ways, all of them about the user's files, machine or connection.

    Raises:
        SparseSightError: in place of whatever is raised.
    """
    from safetensors import SafetensorError

    try:
        with out_of_memory("the device"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # an error says more
            yield
    except SparseSightError:
        raise
    except ImportError as error:
        if "torchvision" in str(error).lower():
            raise SparseSightError(f"{title} has a processor that needs torchvision: {remedy()}") from None
        raise SparseSightError(f"{title} needs a package that is not installed ({_gist(error)})") from None
    except RecursionError:
        raise SparseSightError(f"{title} has a file that is nested too deeply: download it again") from None
    except BaseException as error:  # readers raise whatever a malformed file leads them to
        if not (isinstance(error, Exception) or panicked(error)):
            raise
        said = str(error)
        if "trust_remote_code" in said:
            problem = "brings its own code: read it, then pass --trust-remote-code"
        elif "couldn't connect" in said.lower():
            problem = NOT_REACHED
        elif "not a valid model identifier" in said:
            problem = NOT_THERE
        elif "does not recognize this architecture" in said:
            problem = "is of a type that the installed transformers does not know: upgrade transformers"
        elif "Can't load image processor" in said:
            problem = "comes without an image processor: add its preprocessor_config.json"
        elif "ignore_mismatched_sizes" in said:
            problem = "has weights of other shapes than its config.json says: use files that belong together"
        elif not local and "does not appear to have a file" in said and "safetensors" in said:
            problem = "has no safetensors weights on the Hub: convert them, pickled ones are not loaded"
        elif isinstance(error, SafetensorError):
            problem = f"has damaged weights ({_gist(error)}): download them again"
        else:
            problem = f"cannot be loaded ({_gist(error)})"
        raise SparseSightError(f"{title} {problem}") from error


def _gist(error: BaseException) -> str:
    """The first sentence of a message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.partition(". ")[0].rstrip(".")
    return text if len(text) <= 160 else text[:157] + "..."
