"""The examples at the end of the program's help and of each command's."""

from __future__ import annotations

import inspect
import re

WIDTH = 77  # of a line that fits into a terminal of 80 columns

_DAY_ONE = """
sparsesight doctor                        # check the installation
sparsesight ask                           # bundled model, bundled picture
sparsesight ask "How many cards are there?" --retain 33%
sparsesight ask photo.jpg "What is this?" --model llava-hf/llava-1.5-7b-hf
sparsesight methods                       # the methods to choose from
sparsesight demo                          # ask in a browser
"""

# By command name; "" is the program itself.
EXAMPLES = {
    "": _DAY_ONE,
    "ask": """
sparsesight ask
sparsesight ask "Where is the white ring?" --retain 33% --method sparsevlm
sparsesight ask photo.jpg "What is this?" --model llava-hf/llava-1.5-7b-hf
sparsesight ask photo.jpg "What is this?" --save kept.png --json
""",
    "methods": """
sparsesight methods
""",
    "bench": """
sparsesight bench --retain 192,64 --repeats 3
sparsesight bench --shape layers=24,hidden=1024,ffn=2816,visual=576,text=64
sparsesight bench --shape layers=8,hidden=256 --visual 576,2304 --retain 33%
sparsesight bench --model llava-hf/llava-1.5-7b-hf --device cuda --batch 1,8
""",
    "eval": """
sparsesight eval --tasks scenes --methods fastv,dart --retain 64 --limit 100
sparsesight eval --tasks mme,gqa --model llava-hf/llava-1.5-7b-hf
sparsesight eval --tasks mme,gqa --model llava-hf/llava-1.5-7b-hf --resume
""",
    "tune": """
sparsesight tune my.jsonl --model llava-hf/llava-1.5-7b-hf --keep 0.98
sparsesight tune photos/ --question "Is there a person?" --by time
sparsesight tune my.jsonl --methods halves,tome --retain 0.5,0.25 --resume
""",
    "doctor": """
sparsesight doctor
sparsesight doctor --json
""",
    "demo": """
sparsesight demo
sparsesight demo --model llava-hf/llava-1.5-7b-hf
""",
    "serve": """
sparsesight serve bundled                 # the bundled tiny model
sparsesight serve llava-hf/llava-1.5-7b-hf --retain 64 --port 8001
sparsesight serve llava-hf/llava-1.5-7b-hf --retain 33% --dry-run
""",
}


def unwrapped(command: object) -> str:
    """A command's docstring with line breaks only between paragraphs, as terminals differ in width."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")


def epilog(command: str) -> str | None:
    """The end of a command's help; None for a command without examples."""
    lines = EXAMPLES.get(command, "").strip().splitlines()
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else None
