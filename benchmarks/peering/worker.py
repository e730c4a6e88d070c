"""One contestant: loads a model through an adapter, then answers its parent's requests line by line.

It runs in the environment of the code that it measures, so it needs torch and nothing of SparseSight. What that code
prints goes to standard error; the parent reads JSON from the standard output.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

# Weights of the decoder under the names that all ports of Llama use, whatever stands before.
OWN = re.compile(r"(?:^|\.)layers\.(\d+\.(?:self_attn|mlp)\..+)$")
FOREIGN = re.compile(r"vision|visual|image_tower|flash_attn")


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    try:
        job = json.loads(sys.stdin.readline())
        if job.get("checkout"):
            sys.path.insert(0, job["checkout"])
        import torch

        if job["threads"]:
            torch.set_num_threads(job["threads"])
        prompt = torch.load(job["prompt"], map_location=job["device"])
        module, answer = adapter(job["adapter"]).load(job)
        say(ready=about(job), weights=fingerprint(module, job["dtype"]))
        for line in sys.stdin:
            say(**turn(answer, prompt, job["device"], int(line)))
    except Exception as error:
        traceback.print_exc()
        say(failed=f"{type(error).__name__}: {error}")


def adapter(path: str) -> Any:
    """The module of an adapter's file."""
    spec = importlib.util.spec_from_file_location("contestant", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def about(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    cuda = job["device"].startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(job["device"]) if cuda else platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def fingerprint(module: Any, dtype: str) -> dict[str, str]:
    """A hash of each weight of the decoder's layers, taken in ``dtype``."""
    import torch

    found = {}
    for name, value in module.state_dict().items():
        match = OWN.search(name)
        if match and not FOREIGN.search(name):
            flat = value.detach().flatten()
            ends = torch.cat((flat[:64], flat[-64:])).to(getattr(torch, dtype)).float().cpu()
            seen = f"{list(value.shape)} {ends.tolist()}"
            found[match.group(1)] = hashlib.sha256(seen.encode()).hexdigest()[:16]
    return found


def turn(answer: Callable[[Any, int], list[int]], prompt: Any, device: str, steps: int) -> dict[str, Any]:
    """Milliseconds of the whole call up to the first token, and of each of ``steps`` further ones."""
    tokens, wall, cpu = timed(lambda: answer(prompt, 1), device)
    made: dict[str, Any] = {"tokens": tokens, "first_token_ms": wall, "first_token_cpu_ms": cpu}
    if steps:
        made["tokens"], longer, longer_cpu = timed(lambda: answer(prompt, 1 + steps), device)
        made["token_ms"], made["token_cpu_ms"] = (longer - wall) / steps, (longer_cpu - cpu) / steps
    return made


def timed(work: Callable[[], list[int]], device: str) -> Any:
    import torch

    wait = (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        tokens = [int(x) for x in work()]
    wait()
    return tokens, 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


if __name__ == "__main__":
    main()
