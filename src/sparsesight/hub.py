"""Whether there is a model of a name, as a folder or on the Hugging Face Hub."""

from __future__ import annotations

import logging
import os
import re

from .errors import SparseSightError

NOT_REACHED = (
    "is neither a folder here nor in the cache, and the Hugging Face Hub cannot be reached: check the name and the "
    "connection"
)
NO_NAME = "does not exist: give a folder with a model, or a Hugging Face Hub id"
URL = "is a URL, which is not read as a model: give {instead}"
NOT_THERE = "is neither a folder here nor on the Hugging Face Hub: check the name, or log in if it is private"


def check_name(model: str) -> None:
    """Check that a model's name is a folder that exists, or may be a Hub id (``name`` or ``owner/name``).

    Raises:
        SparseSightError: it is neither; of a URL, with what to give instead.
    """
    if not os.path.exists(os.path.expanduser(model)) and re.match(r"[A-Za-z][\w+.-]+:/", model):
        page = re.match(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", model, re.ASCII)
        listed = page is not None and not page[1].startswith(("datasets/", "spaces/"))
        instead = (
            f"its Hub id, {page[1]!r}"
            if page and listed
            else "a Hugging Face Hub id (owner/name), or a folder"
        )
        raise SparseSightError(f"model {model!r} {URL.format(instead=instead)}")
    if not os.path.exists(os.path.expanduser(model)) and not re.fullmatch(
        r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?", model, re.ASCII
    ):
        raise SparseSightError(f"model {model!r} {NO_NAME}")


def check_found(model: str) -> None:
    """:func:`check_name`, and that the Hub or its cache has the config of a model that is no folder here.

    It takes the Hub's client alone, so that a wrong name is told before torch and transformers are imported.

    Raises:
        SparseSightError: there is no such model, or no way to know.
    """
    check_name(model)
    if os.path.exists(os.path.expanduser(model)):
        return
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return
    except HFValidationError:
        raise SparseSightError(f"model {model!r} {NO_NAME}") from None
    logger = logging.getLogger("huggingface_hub")
    level, problem = logger.level, NOT_REACHED
    logger.setLevel(logging.CRITICAL)  # its retries would bury the sentence
    try:
        if not constants.HF_HUB_OFFLINE:
            get_hf_file_metadata(hf_hub_url(model, "config.json"))
            return
    except RepositoryNotFoundError as error:
        if type(error) is not RepositoryNotFoundError:
            return  # gated: loading says what to do
        problem = NOT_THERE
    except HfHubHTTPError:
        return  # loading meets the same and says what it is
    except Exception:  # nosec B110
        pass  # no answer came, for one of many reasons
    finally:
        logger.setLevel(level)
    raise SparseSightError(f"model {model!r} {problem}")
