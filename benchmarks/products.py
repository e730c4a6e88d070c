"""The time of a decoder layer's matrix products by the number of rows: why short prompts use a CPU less well.

    python benchmarks/products.py --threads 1 --out benchmarks/results/roofline/products.json

Products of few rows take almost as long as of some more, because every call reads and repacks the weights. Beside them
stand the same products with weights that MKL has packed beforehand, which torch does where it compiles a frozen model.
Rows take turns in random order; times are medians per layer, of processor time on one thread and by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from sparsesight.bench.ceilings import linears
from sparsesight.bench.machine import environment
from sparsesight.bench.timing import Mark, mark, milliseconds
from sparsesight.bench.work import products
from sparsesight.random_models import Shape, random_llava

ROWS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 640, 1024)


def packed_products(layers: Sequence[nn.Module], rows: int) -> tuple[Mark, Mark] | None:
    """When the same products were made with weights packed for so many rows; None if this torch cannot."""
    if not torch.backends.mkl.is_available() or not hasattr(torch.ops.mkl, "_mkl_linear"):
        return None
    weights = [linear.weight for layer in layers for linear, _ in linears(layer)]
    operands: dict[int, Tensor] = {w.shape[1]: torch.ones(rows, w.shape[1]) for w in weights}
    pack, multiply = torch.ops.mkl._mkl_reorder_linear_weight, torch.ops.mkl._mkl_linear
    packed = [(pack(w, rows), w, operands[w.shape[1]]) for w in weights]
    start = mark(weights[0].device)
    with torch.no_grad():
        for ready, weight, x in packed:
            multiply(x, ready, weight, None, rows)
    return start, mark(weights[0].device)


def measure(layers: Sequence[nn.Module], sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """A row for each size: milliseconds per layer, and multiply-adds a second of processor time."""
    weights = sum(width * out for _, (width, out) in linears(layers[0]))
    times: dict[int, dict[str, list[float]]] = {
        n: {"ms": [], "cpu_ms": [], "packed_cpu_ms": []} for n in sizes
    }
    shuffle = random.Random(0)
    for count in range(repeats + 1):
        for n in shuffle.sample(list(sizes), len(sizes)):
            wall, cpu = milliseconds(*products(layers, [n] * len(layers)))
            packed = packed_products(layers, n)  # packed anew each time: those of all sizes take gigabytes
            if count:
                times[n]["ms"].append(wall / len(layers))
                times[n]["cpu_ms"].append(cpu / len(layers))
                if packed is not None:
                    times[n]["packed_cpu_ms"].append(milliseconds(*packed)[1] / len(layers))
    made = []
    for n in sizes:
        found = {key: median(values) if values else None for key, values in times[n].items()}
        rates = {
            key.replace("cpu_ms", "gmacs"): None if found[key] is None else n * weights / found[key] / 1e6
            for key in ("cpu_ms", "packed_cpu_ms")
        }
        made.append({"rows": n, **found, **rates})
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="layers=8,hidden=1024,ffn=2816", help="of the decoder")
    parser.add_argument("--rows", type=lambda x: tuple(map(int, x.split(","))), default=ROWS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, _ = random_llava(Shape.parse(options.shape), torch.float32, "cpu")
    layers: Any = model.get_decoder().layers  # type: ignore[operator]
    rows = measure(list(layers), options.rows, options.repeats)
    found = {
        "shape": options.shape,
        "repeats": options.repeats,
        **environment("cpu", torch.float32),
        "rows": rows,
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    for row in rows:
        packed = (
            ""
            if row["packed_cpu_ms"] is None
            else (f", packed beforehand {row['packed_cpu_ms']:.2f} ms ({row['packed_gmacs']:.0f} G/s)")
        )
        print(
            f"{row['rows']} rows: {row['cpu_ms']:.2f} ms a layer ({row['gmacs']:.0f} G multiply-adds/s){packed}"
        )


if __name__ == "__main__":
    main()
