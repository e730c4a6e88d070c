"""Loads the model and the tasks of a run, and collects what is recorded about it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from ..bench import environment
from ..bundled import BUNDLED
from ..errors import SparseSightError
from ..hf.loading import Loaded, load_model
from ..provenance import weights, weights_fingerprint
from ..suggestions import did_you_mean
from .distributed import Ranks, one_process
from .lmms.registry import check_task
from .options import EvalOptions
from .own.data import OwnData
from .own.read import is_own
from .prompts import Prompts, choose_setting
from .scene_sets import SCENES, by_difficulty, check_difficulty, scene_set, takes_difficulty
from .task import Task

FRAMES = 8  # of a clip
PACKAGES = ("torch", "transformers", "lmms-eval")


@dataclass(frozen=True)
class Prepared:
    """A model, loaded once, and the tasks that it will be asked."""

    loaded: Loaded
    setting: str
    tasks: list[Task]


def check_tasks(names: Sequence[str], model: str | None = None, difficult: Path | None = None) -> None:
    """Refuse what cannot be there, or would tell nothing, before the model is loaded.

    Raises:
        SparseSightError: a task twice, one that does not exist, one of lmms-eval without lmms-eval, or one of those
            without a model: they say nothing of the bundled one, which knows its scenes alone.
    """
    double = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if double is not None:
        raise SparseSightError(f"--tasks: {double!r} is named twice")
    sets = {name: scene_set(name) for name in names if not is_own(name)}
    theirs = [name for name, scenes in sets.items() if scenes is None]
    for scenes in sets.values():
        if scenes is not None:
            scenes.check()
    if difficult is not None:
        check_difficulty(names, difficult)
    if theirs and find_spec("lmms_eval") is None:
        raise SparseSightError(
            f"--tasks {theirs[0]!r} runs through lmms-eval, which is not installed: pip install 'sparsesight[eval]'; "
            f"without it there is {', '.join(SCENES)}{did_you_mean(theirs[0], list(SCENES))}"
        )
    if theirs:
        from loguru import logger

        logger.disable("lmms_eval")  # it would tell of every file that it cannot read
    for name in theirs:
        check_task(name, SCENES)
    if theirs and model is None:
        raise SparseSightError(
            f"--tasks {theirs[0]!r} asks about photographs, which the bundled model was not trained on: name a "
            f"--model, such as llava-hf/llava-1.5-7b-hf (--model {BUNDLED} tries the command), or take "
            f"{', '.join(SCENES)}"
        )


def prepare_tasks(options: EvalOptions, ranks: Ranks, own: Mapping[str, OwnData] | None = None) -> Prepared:
    """Load the model and the tasks.

    Args:
        options: of the run.
        ranks: this process among others.
        own: the tasks that are own data (:func:`.own.data.read_own`).

    Raises:
        SparseSightError: whatever is wrong with either, in one sentence.
    """
    from .image_task import PictureQuestions, exact
    from .scene_task import SceneQuestions

    device = own_device(options.device, ranks)
    model = options.model or BUNDLED
    own = own or {}
    sets = {name: scene_set(name) for name in options.tasks if name not in own}
    theirs = [name for name, scenes in sets.items() if scenes is None]
    found: dict[str, Task] = {}
    if theirs:
        from .lmms.model import SparseSightModel
        from .lmms.task import harness_tasks

        with one_process():
            host = SparseSightModel(
                model,
                batch_size=options.batch_size,
                device=device,
                dtype=options.dtype,
                trust_remote_code=options.trust_remote_code,
                prompts=options.prompts,
                trim_early_layers=options.trim_early_layers,
                text_tower=options.text_tower,
            )
        loaded, prompts, chosen = host.loaded, host.prompts, host.setting.name
        harness = harness_tasks(theirs, host, data=options.data, limit=options.limit, latency=options.latency)
        found.update((each.name, each) for each in harness)
    else:
        asked = choose_setting(options.prompts, model)
        loaded = load_model(model, device, options.dtype, options.trust_remote_code, options.text_tower)
        chosen = asked.name
        clips = getattr(loaded.processor, "video_processor", None) is not None
        prompts = Prompts(loaded.processor, asked, FRAMES, clips)
    for name, data in own.items():
        from .own.task import OwnRows

        found[name] = OwnRows(
            data.name,
            data.rows,
            loaded,
            prompts,
            max_new_tokens=options.max_new_tokens,
            latency=options.latency,
            trim_early_layers=options.trim_early_layers,
            scorer=data.scorer,
        )
    for name, scenes in sets.items():
        if scenes is None:
            continue
        items = scenes.items(options.limit)
        if options.difficult is not None and takes_difficulty(name):
            items = by_difficulty(name, items, options.difficult)
        shared = SceneQuestions.suits(loaded, prompts)
        longest = {"max_new_tokens": scenes.answer_tokens} if shared or scenes.scorer is not exact else {}
        task = (SceneQuestions if shared else PictureQuestions)(
            name,
            items,
            loaded,
            prompts,
            latency=options.latency,
            trim_early_layers=options.trim_early_layers,
            scorer=scenes.scorer,
            **longest,
        )
        task.unit = scenes.unit
        found[name] = task
    return Prepared(loaded, chosen, [found[name] for name in options.tasks])


def own_device(device: str, ranks: Ranks) -> str:
    """``--device`` of this process: where several share the work and no GPU is named, each has its own.

    Raises:
        SparseSightError: if there are more processes than GPUs.
    """
    import torch

    if ranks.count == 1 or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    there = torch.cuda.device_count()
    if ranks.local >= there:
        raise SparseSightError(
            f"--device {device!r}: process {ranks.local} of this machine has no GPU of its own, there are {there}: "
            "start one process per GPU, or name a device, such as cuda:0, for all"
        )
    torch.cuda.set_device(ranks.local)  # for whatever says only "cuda"
    return f"cuda:{ranks.local}"


def run_settings(prepared: Prepared, options: EvalOptions) -> dict[str, Any]:
    """Everything that affects the answers of a run; it must stay the same when the run is resumed."""
    model = prepared.loaded.model
    return {
        "model": prepared.loaded.name,
        "weights": weights_fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": model.config._attn_implementation,
        "prompts": prepared.setting,
        "batch_size": options.batch_size,
        "limit": options.limit,
        "budgets_are": "retain" if options.same_retain else "cost",
        "trim_early_layers": options.trim_early_layers,
        **({} if options.text_tower is None else {"text_tower": options.text_tower}),
        **(
            {"score": options.score, "max_new_tokens": options.max_new_tokens}
            if any(map(is_own, options.tasks))
            else {}
        ),
        "versions": _versions(),
    }


def session(loaded: Loaded, ranks: Ranks) -> dict[str, Any]:
    """What is noted of this call: when, how and where, with which code and which weights."""
    model = loaded.model
    where = environment(str(model.device), model.dtype)
    where.pop("date")
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join([*_program(sys.argv[0]), *sys.argv[1:]]),
        "processes": ranks.count,
        **where,
        "weights": weights(model, loaded.name),
    }


def _program(started: str) -> list[str]:
    """``sparsesight``, or the script that calls it."""
    script = started.endswith(".py") and Path(started).name != "__main__.py"
    return ["python", started] if script else ["sparsesight"]


def _versions() -> dict[str, str]:
    found = {"sparsesight": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
