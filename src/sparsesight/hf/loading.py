"""Loads a vision-language model for a command; anything wrong with it becomes a one-sentence error."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SparseSightError, brief
from ..hub import check_found, check_name
from ..suggestions import did_you_mean
from .checkpoint import check_attention_of, check_folder, check_hub, check_whole, hub_weights
from .checkpoint_sizes import check_built_size, check_picture_sizes
from .loading_errors import one_sentence
from .tokenizer_trial import check_special_tokens, check_tokenizer

if TYPE_CHECKING:
    from ..core.turns import Turns
    from ..methods import Method

DTYPES = ("auto", "float32", "bfloat16", "float16")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
GREEDY = {"do_sample": False, "num_beams": 1}  # what `generate` is told wherever answers are compared


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its processor, what the user calls it, and the text tower of its vision tower if given."""

    model: Any
    processor: Any
    name: str
    text_tower: Any = None

    @cached_property
    def turns(self) -> Turns | None:
        """How the chat template marks turns, for ``sparsify(turns=...)``; read within a template's limits."""
        from ..checkpoint_limits import bounded_memory
        from ..core.turns import of_template

        with bounded_memory():
            return of_template(self.processor)

    def tower_for(self, method: Method) -> Any:
        """The text tower for a method that reads one."""
        return self.text_tower if method.requires_text_tower else None


def load_model(
    name: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    text_tower: str | None = None,
) -> Loaded:
    """Load a model from a folder or the Hugging Face Hub; weights come from safetensors files only.

    Args:
        name: folder, Hub id, or one of :data:`sparsesight.bundled.NAMES`; None is "bundled".
        device: as torch writes it; ``auto`` is CUDA where there is one, else the CPU.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``: float32 on a CPU, elsewhere the checkpoint's own.
        trust_remote_code: whether code that comes with the checkpoint may run.
        text_tower: folder or Hub id of the CLIP that the vision tower is from; it reads questions off the prompts.

    Raises:
        SparseSightError: no such model, not a vision-language model, weights missing or only pickled, a device that
            is not there; one sentence that names the model, the problem and what to do.
    """
    from ..torchvision_schemas import mend_torchvision

    mend_torchvision()
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from .. import bundled

    target = pick_device(device)
    check_dtype(dtype)
    if dtype == "auto" and target.type == "cpu":
        dtype = "float32"
    name = bundled.BUNDLED if name is None else name
    ours = name in bundled.NAMES
    where: str | Path = bundled.folder(name) if ours else name
    title = f"the {name} model" if ours else f"model {name!r}"
    local = Path(os.path.expanduser(where))
    if is_there := os.path.exists(local):  # what is too long for a path is not there
        _check_local(local, title, tried=not ours)
        where = local
    else:
        check_name(str(where))
    with one_sentence(title, is_there):
        if not is_there:
            check_hub(str(where), title)
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
        if not trust_remote_code:
            check_attention_of(config, title)
        own_code = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
        if type(config) not in AutoModelForImageTextToText._model_mapping and not own_code:
            raise SparseSightError(
                f"{title} is a {config.model_type!r}, which is not a vision-language model: give one that "
                "AutoModelForImageTextToText loads, such as LLaVA"
            )
        if not ours and not own_code:
            build = partial(AutoModelForImageTextToText.from_config, config)
            check_built_size(build, _weights(str(where)), title)
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=trust_remote_code)
        if not hasattr(processor, "image_processor"):
            raise SparseSightError(
                f"{title} comes without an image processor: add its preprocessor_config.json"
            )
        if not trust_remote_code:
            check_picture_sizes(processor, title)
        if "mm_token_type_ids" in getattr(processor, "model_input_names", ()):
            # The processor of Cosmos 3 Edge makes them only on demand, and its model asks for them.
            processor.return_mm_token_type_ids = True
        both: Any = AutoModelForImageTextToText.from_pretrained(
            where,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        model, found = both
        check_whole(found, title)
        model.generation_config = greedy_config(model.generation_config, title)
    tower = None
    if text_tower is not None:
        from transformers import CLIPModel

        from .vision.text_tower import TextTower

        title, local = f"text tower {text_tower!r}", Path(os.path.expanduser(text_tower))
        if is_there := os.path.exists(local):
            _check_local(local, title)
            text_tower = str(local)
        with one_sentence(title, is_there):
            if not is_there:
                check_hub(text_tower, title)
            clip = AutoConfig.from_pretrained(text_tower)
            if clip.model_type == "clip":  # else it is refused below
                check_built_size(partial(CLIPModel, clip), _weights(text_tower), title)
            tower = TextTower.from_pretrained(text_tower, processor.tokenizer, target)
    return Loaded(model.to(target).eval(), processor, name, tower)


def _weights(where: str) -> list[Path]:
    """The files that a model's weights are in; none if there are none, which loading says."""
    return list(Path(where).glob("*.safetensors")) if os.path.exists(where) else hub_weights(where)


def check_model(name: str) -> None:
    """Check that there is a model of this name, without loading it.

    Raises:
        SparseSightError: a folder that lacks a file or is refused, no such model on the Hub or in its cache, or "smol"
            without its extra.
    """
    from .. import bundled

    if name == bundled.SMOL:
        from ..bundled.smol.base import base_file

        base_file()
    elif name not in bundled.NAMES:
        check_found(name)
        local = Path(os.path.expanduser(name))
        if os.path.exists(local):
            check_folder(local, f"model {name!r}")


def _check_local(folder: Path, title: str, tried: bool = True) -> None:
    check_folder(folder, title)
    if tried:  # the tokenizers of our own models are known
        check_special_tokens(folder / "tokenizer_config.json", title)
        check_tokenizer(folder / "tokenizer.json", title)


def greedy_config(config: Any, title: str) -> Any:
    """A generation config with the token ids of a checkpoint's own and nothing else of it: beams, sampling, penalties,
    lengths, forced and suppressed tokens, stop strings or an assistant would change what is compared.

    Raises:
        SparseSightError: if an id is no whole number.
    """
    from transformers import GenerationConfig

    ids = {name: getattr(config, name, None) for name in TOKEN_IDS}
    for name, value in ids.items():
        several = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if value is not None and not all(type(x) is int for x in several):
            raise SparseSightError(f"{title}: its generation config has {name}={brief(value)}: use token ids")
    return GenerationConfig(**ids)


def check_text_tower(methods: Sequence[str], text_tower: str | None) -> None:
    """Reject a ``--text-tower`` that none of ``methods`` reads, and one that reads it without it.

    Raises:
        SparseSightError: naming the method or the text tower.
    """
    from ..methods import parse

    reads = [name for name in methods if name != "dense" and parse(name).requires_text_tower]
    if bool(reads) != (text_tower is not None):
        raise SparseSightError(
            f"--methods {reads[0]!r} reads a text tower: give the CLIP that the model's vision tower is from, such as "
            "--text-tower openai/clip-vit-large-patch14-336 for LLaVA-1.5"
            if reads
            else f"--text-tower {text_tower!r}: none of --methods reads one; leave it out, or name such as "
            "cdpruner:published"
        )


def check_dtype(dtype: str) -> None:
    """Reject a ``--dtype`` that is none.

    Raises:
        SparseSightError: naming the value and what is possible.
    """
    if dtype not in DTYPES:
        raise SparseSightError(
            f"--dtype {dtype!r} is unknown: use auto, float32, bfloat16 or float16{did_you_mean(dtype, DTYPES)}"
        )


def check_attention(name: str) -> None:
    """Reject an ``--attention`` that transformers does not know.

    Raises:
        SparseSightError: naming the value and what is possible.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ("eager", *sorted(n for n in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in n))
    if name not in known:
        raise SparseSightError(
            f"--attention {name!r} is unknown: use eager, sdpa, flex_attention or another of transformers'"
            f"{did_you_mean(name, known)}"
        )


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silence transformers and the Hub client, whose retries and warnings would bury the one sentence that matters.

    Args:
        bars: leave the progress bars of a download.
    """
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    hide = transformers_logging.is_progress_bar_enabled() and not bars
    if hide:
        transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if hide:
            transformers_logging.enable_progress_bar()


def pick_device(device: str) -> Any:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "meta":
            raise RuntimeError("holds no numbers")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch's three ways to say so
        others = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        there = ["auto", "cpu", *(kind for kind, found in others.items() if found)]
        raise SparseSightError(
            f"--device {device!r} is not available here: use {' or '.join(there)}"
        ) from None
    return chosen
