"""One contestant: builds a model through its adapter, then answers its parent's requests line by line.

It runs in the environment of the code that it measures, so it needs torch and nothing of SparseSight. What that code
prints goes to standard error; the parent reads JSON from the standard output.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MEMORY = HERE.parents[1] / "src" / "sparsesight" / "profiling" / "peak_memory.py"  # it imports only torch
# Weights of the decoder under the names that all ports of Llama use, whatever stands before.
OWN = re.compile(r"(?:^|\.)layers\.(\d+\.(?:self_attn|mlp)\..+)$")


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    try:
        job = json.loads(sys.stdin.readline())
        # Not this folder, whose files have names that others have as well; its parent last, for the adapters.
        sys.path[:] = [*sys.path[1:], str(HERE.parent)]
        import torch

        torch.set_num_threads(job["threads"])
        prompt = torch.load(Path(job["folder"], "prompt.pt"))
        job.update(visual=prompt["visual"], before=len(prompt["before"]))
        module = loaded("adapter", Path(job["adapter"]))
        sys.path[:0] = [str(Path(job["checkout"], part).resolve()) for part in module.PATHS]
        peer = module.Peer(job)
        say(ready=about(), changes=module.CHANGES, weights=fingerprint(peer.decoder))
    except Exception as error:
        traceback.print_exc()
        say(failed=f"{type(error).__name__}: {error}")
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with torch.inference_mode():
                peer.choose(request["options"])
                say(**(look if request["look"] else turn)(peer, prompt))
        except Exception as error:
            traceback.print_exc()
            say(failed=f"{type(error).__name__}: {error}")


def loaded(name: str, path: Path) -> Any:
    """The module of a file."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def about() -> dict[str, Any]:
    import torch
    import transformers

    return {
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def fingerprint(module: Any) -> dict[str, str]:
    """A hash of each weight of the decoder's layers."""
    found = {}
    for name, value in module.state_dict().items():
        match = OWN.search(name)
        if match and "vision" not in name and "text_tower" not in name:
            flat = value.detach().float().flatten()
            seen = f"{list(value.shape)} {flat[:64].tolist()} {flat[-64:].tolist()}"
            found[match.group(1)] = hashlib.sha256(seen.encode()).hexdigest()[:16]
    return found


def look(peer: Any, prompt: Any) -> dict[str, Any]:
    """Once, without a clock: what is kept, the cache, and the peak memory of tensors."""
    with loaded("peak_memory", MEMORY).Memory() as memory:
        seen = peer.look(prompt)
    cache = seen.pop("cache")
    text = len(prompt["before"]) + len(prompt["after"])
    return {
        **seen,
        "peak_bytes": memory.peak,
        "cache_bytes": sum(x.numel() * x.element_size() for layer in cache for x in layer),
        "visual_per_layer": [keys.shape[-2] - text for keys, _ in cache],
    }


def turn(peer: Any, prompt: Any) -> dict[str, Any]:
    """Seconds of one call up to the first token, by the wall clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    peer.prefill(prompt)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_s": cpu, "wall_s": wall}


if __name__ == "__main__":
    main()
