"""Probe the bundled model, or another of the scenes: accuracy, controls, raters, pruning by depth.

    python benchmarks/probe_bundled.py --out benchmarks/results/bundled

Writes probes.json (all numbers, and the marks they were made from), probes.md and a plot for each part. A run that was
stopped goes on where it was when it is started again with the same --out; with another model it starts anew.

    python benchmarks/probe_bundled.py --model smol --dtype bfloat16 --out benchmarks/results/smol --scenes 24 \\
        --depths 1,2,6,10,15,20,25,29 --depth-budgets 1,32 --depth-scorers random,relevant
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from probing import accuracy, controls, depth, raters
from probing.answering import Examiner
from probing.scorers import SCORERS
from probing.store import Store, sha256

from sparsesight import bundled
from sparsesight.bench import environment
from sparsesight.scenes import scenes

PARTS: dict[str, Any] = {
    "accuracy": accuracy,
    "controls": controls,
    "raters": raters,
    "depth": depth,
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    path = bundled.folder(arguments.model) if arguments.model in bundled.NAMES else Path(arguments.model)
    model, processor = load_from(path, arguments.dtype)
    subject = {
        "model_sha256": sha256(path / "model.safetensors"),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "decoder_layers": len(model.get_decoder().layers),
        "visual_tokens": model.config.image_seq_length,
        "scenes_version": scenes.VERSION,
    }
    examiner = Examiner(
        model, processor, Store(arguments.out / "probes.json", subject, arguments.fresh), arguments.batch
    )
    wrong = [d for d in arguments.depths or () if d not in examiner.depths]
    if wrong:
        sys.exit(f"--depths {wrong}: this model can be pruned after {list(examiner.depths)} layers")
    for name in arguments.parts:
        numbers = PARTS[name].run(examiner, arguments)
        facts = {
            "command": command(),
            "prompts_at_once": arguments.batch,
            **environment("cpu", model.dtype),
        }
        examiner.store.keep_part(name, {"made_with": facts, **numbers})
        PARTS[name].plot(numbers, arguments.out / f"{name}.png")
        write_tables(examiner.store, arguments.out / "probes.md")


def write_tables(store: Store, path: Path) -> None:
    """Markdown of all parts that there are numbers of."""
    facts = ", ".join(f"{name} {value}" for name, value in store.data["subject"].items())
    lines = [f"# Probes\n\n{facts}\n"]
    for name, part in PARTS.items():
        if name in store.parts:
            numbers = store.parts[name]
            made = dict(numbers["made_with"])
            how = f"    {made.pop('command')}\n\n" + ", ".join(
                f"{key} {value}" for key, value in made.items()
            )
            lines += [f"## {name.capitalize()}\n\n{how}\n", part.markdown(numbers)]
    path.write_text("\n".join(lines), encoding="utf-8")


def load_from(path: Path, dtype: str = "float32") -> tuple[Any, Any]:
    """A model of the same make in eval mode, and its processor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, local_files_only=True)
    return model.eval(), AutoProcessor.from_pretrained(path, local_files_only=True)


def command() -> str:
    """What was typed."""
    return " ".join(["python", "benchmarks/probe_bundled.py", *sys.argv[1:]])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the results")
    add("--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    add("--scenes", type=int, help="the first so many scenes of each split, 2 or more (default: all)")
    add("--depth-scenes", type=int, default=24, help="scenes for pruning (default: 24)")
    add("--depths", type=numbers_of, help="layers before pruning, such as 1,4,8 (default: all)")
    add("--depth-budgets", type=numbers_of, help="visual tokens kept, such as 1,32 (default: five budgets)")
    add("--depth-scorers", type=some_of(SCORERS), help=f"some of {','.join(SCORERS)} (default: all)")
    add(
        "--model",
        default=bundled.BUNDLED,
        help="bundled, smol, or the folder of another model (default: bundled)",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    add("--batch", type=int, default=16, help="prompts at once (default: 16)")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    add("--fresh", action="store_true", help="forget what the output folder holds")
    arguments = parser.parse_args()
    if arguments.scenes is not None and arguments.scenes < 2:
        parser.error(f"--scenes {arguments.scenes}: 2 or more, a control needs another scene's picture")
    for name in ("depth_scenes", "batch", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: 1 or more")
    return arguments


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Reads names between commas, and puts them in the order of `known`."""

    def names(text: str) -> list[str]:
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown}: choose from {', '.join(known)}")
        return [name for name in known if name in wanted]

    return names


def numbers_of(text: str) -> list[int]:
    """Whole numbers between commas, ascending."""
    try:
        return sorted({int(one) for one in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers between commas") from None


if __name__ == "__main__":
    main()
