"""Checks the files of a checkpoint before transformers opens them: weights must be safetensors in its own folder."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SparseSightError, brief
from ..files import read_json
from .tokenizer_trial import check_special_tokens, check_tokenizer

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
READ = (".json", ".jinja", ".safetensors", ".txt", ".model")  # suffixes of what transformers looks for
WHOLE = "model.safetensors"
INDEX = f"{WHOLE}.index.json"
ADAPTER = "adapter_config.json"
# Either may name a model of another folder, which the processor would load in its own way, pickles included.
PROCESSORS = ("processor_config.json", "audio_tokenizer_config.json")
OBJECTS = (  # files that transformers takes for JSON objects without a look
    "added_tokens.json",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
LARGEST = 2**27  # bytes of a file that is read whole; the largest tokenizers have 35 MB
COUNTED = r"(layer|depth|block|expert)s?$"  # ends of names of counts: one module is built for each
MOST_LABELS = 100_000  # transformers makes a name for each
MOST = 1000  # the deepest models have some hundred
TOKENS = ("_tokens", "_seq_length", "_seq_len")  # ends of names: a prompt gets so many for a picture
MOST_TOKENS = 100_000  # a tokenizer that runs out of memory ends the process
PLAIN_NAME = r"[A-Za-z0-9_][\w.-]*\.safetensors"


def check_folder(folder: Path, title: str) -> None:
    """Say what a local folder lacks, before transformers says it at length, and refuse files that lead elsewhere.

    Raises:
        SparseSightError: no model, too many layers, weights only as pickle, an index that names other than safetensors
            files of the folder, a link out of it (those of the Hub's cache lead to its ``blobs``), what is no regular
            file, is larger than 128 MiB without being weights, or is no JSON object where one belongs.
    """
    if not folder.is_dir():
        raise SparseSightError(f"{title} is a file: give the folder that holds config.json and the weights")
    if not (folder / "config.json").exists():
        raise SparseSightError(
            f"{title} has no config.json: give a folder that save_pretrained wrote"
            if any(folder.iterdir())
            else f"{title} is an empty folder: download the model into it"
        )
    _check_files(folder, title)
    config = _read(folder / "config.json", title)
    _check_counts(config, title)
    named = config.get("transformers_weights")
    if named is not None and not (isinstance(named, str) and _is_plain(named.removesuffix(".index.json"))):
        raise SparseSightError(f"{title}: its config.json names {brief(named)} as weights: {_ONLY}")
    if (folder / ADAPTER).exists():
        raise SparseSightError(
            f"{title} holds an adapter ({ADAPTER}), which names a model stored elsewhere: merge it into its model, "
            "merge_and_unload() and save_pretrained()"
        )
    for name in PROCESSORS:
        if (folder / name).exists():
            _check_processor(folder / name, title)
    for name in OBJECTS:
        if (folder / name).exists():
            _read(folder / name, title)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        check_index(index, title, folder)
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    raise SparseSightError(
        f"{title} has its weights only as pickle ({pickled[0]}), which can run any code when loaded: convert them to "
        "safetensors"
        if pickled
        else f"{title} has no weights: add its *.safetensors files"
    )


def check_hub(name: str, title: str) -> None:
    """The same of what is on the Hub or in its cache, as far as it decides which files are opened.

    Raises:
        SparseSightError: too many layers, an adapter, an audio tokenizer, or an index that names anything but
            safetensors files.
    """
    found = partial(_hub_file, name)
    file = found("config.json")
    if file is None:
        return  # no model, or no connection: loading says so, and each further file would wait for its own retries
    config = _read(Path(file), title)
    _check_counts(config, title)
    index = found(INDEX)
    if index is not None:
        check_index(Path(index), title)
    named = config.get("transformers_weights")
    if named is not None:
        raise SparseSightError(f"{title}: its config.json names {brief(named)} as weights: {_ONLY}")
    if found(ADAPTER) is not None:
        raise SparseSightError(f"{title} holds an adapter ({ADAPTER}): merge it into its model and load that")
    for processor in filter(None, map(found, PROCESSORS)):
        _check_processor(Path(processor), title)
    for check, part in (
        (check_special_tokens, "tokenizer_config.json"),
        (check_tokenizer, "tokenizer.json"),
    ):
        where = found(part)
        if where is not None:
            check(Path(where), title)


def check_whole(found: Mapping[str, Any], title: str) -> None:
    """Refuse a checkpoint that lacks weights: transformers goes on with random numbers in their place.

    Args:
        found: what `from_pretrained(output_loading_info=True)` says.
        title: what messages call the checkpoint.

    Raises:
        SparseSightError: naming the first.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        raise SparseSightError(
            f"{title} lacks weights ({len(missing)}, the first is {missing[0]}): it is incomplete, or its "
            "config.json belongs to another model"
        )


def hub_weights(name: str) -> list[Path]:
    """The safetensors files that a model on the Hub is loaded from, which are downloaded if the cache lacks them; none
    if there are none.
    """
    from transformers.utils.hub import get_checkpoint_shard_files

    whole = _hub_file(name, WHOLE)
    if whole is not None:
        return [Path(whole)]
    index = _hub_file(name, INDEX)
    return [] if index is None else [Path(x) for x in get_checkpoint_shard_files(name, index)[0]]


def _hub_file(name: str, file: str) -> str | None:
    from transformers.utils.hub import cached_file

    found: str | None = cached_file(
        name,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def check_attention_of(config: Any, title: str) -> None:
    """Refuse a model's config, or a part of it, that names a repository with code as its attention.

    Raises:
        SparseSightError: naming it.
    """
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        named = getattr(part, "_attn_implementation", None)
        if isinstance(named, str) and re.search(r"[/:]", named):
            raise SparseSightError(
                f"{title}: its config.json takes attention from {brief(named)}, which is code from another repository: "
                "remove attn_implementation there, or read it and pass --trust-remote-code"
            )


def check_index(index: Path, title: str, folder: Path | None = None) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it.

    Raises:
        SparseSightError: naming the index and the first wrong name.
    """
    weights: Any = _read(index, title).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise SparseSightError(f"{title}: {index.name} has no weight_map of names: download it again")
    for name in dict.fromkeys(brief(x) if not isinstance(x, str) else x for x in weights.values()):
        if not _is_plain(name):
            raise SparseSightError(f"{title}: {index.name} names {brief(name)} as weights: {_ONLY}")
        if folder is not None and not (folder / name).is_file():
            raise SparseSightError(f"{title} lacks {name}, which {index.name} names: download it again")


def _check_counts(config: Any, title: str) -> None:
    """Refuse a config with more layers or blocks than any model has: each of them is built, which may not end.

    Raises:
        SparseSightError: naming the first one.
    """
    pairs = list(config.items()) if isinstance(config, dict) else []
    while pairs:
        name, value = pairs.pop()
        if isinstance(value, dict):
            pairs += value.items()
        elif isinstance(value, list) and len(value) > MOST and re.search(COUNTED, name):
            raise SparseSightError(
                f"{title}: its config.json has {len(value):,} entries in {brief(name)}, more than the limit of "
                f"{MOST:,}: correct it"
            )
        elif isinstance(value, list):
            pairs += [(name, each) for each in value]
        elif isinstance(value, int | float) and (
            (value > MOST and re.search(COUNTED, name)) or (value > MOST_LABELS and name == "num_labels")
        ):
            raise SparseSightError(
                f"{title}: its config.json has {brief(name)}: {brief(value)}, more than the limit of "
                f"{MOST_LABELS if name == 'num_labels' else MOST:,}: correct "
                "it"
            )


def _check_processor(file: Path, title: str) -> None:
    found = _read(file, title)
    for name, value in found.items():
        if name.endswith(TOKENS) and isinstance(value, int | float) and abs(value) > MOST_TOKENS:
            raise SparseSightError(
                f"{title}: its {file.name} has {brief(name)}: {brief(value)}, more than the limit of {MOST_TOKENS:,}: "
                "correct it"
            )
    if file.name == PROCESSORS[1] or "audio_tokenizer" in found:
        raise SparseSightError(
            f"{title}: {file.name} names an audio tokenizer, a model stored elsewhere: remove it, sound is not read"
        )


def _read(file: Path, title: str) -> dict[str, Any]:
    try:
        return read_json(file, dict)
    except SparseSightError as error:
        raise SparseSightError(f"{title} cannot be loaded: {error}") from None


_ONLY = "weights come from safetensors files of its own folder only; convert them with save_pretrained()"


def _is_plain(name: str) -> bool:
    return re.fullmatch(PLAIN_NAME, name, re.ASCII) is not None


def _check_files(folder: Path, title: str) -> None:
    """Refuse pipes and devices, whose reading may never end, and links out of the folder but into the Hub's cache."""
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    for file in sorted((*folder.iterdir(), *folder.glob("additional_chat_templates/*"))):
        if file.suffix not in READ:
            continue
        target = file.resolve()
        if not target.is_relative_to(home) and not (blobs is not None and target.is_relative_to(blobs)):
            raise SparseSightError(
                f"{title}: {file.name} is a link out of the folder: put the file itself there"
            )
        try:
            found = file.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise SparseSightError(f"{title}: {file.name} is not a regular file: download it again")
        if found.st_size > LARGEST and file.suffix != ".safetensors":
            raise SparseSightError(
                f"{title}: {file.name} has {found.st_size:,} bytes, over the limit of {LARGEST:,}: download it again"
            )
