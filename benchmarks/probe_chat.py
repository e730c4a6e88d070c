"""Can a model that was given eyes still be talked to? 200 plain instructions, without a picture.

    python benchmarks/probe_chat.py --model runs/smol/model --out runs/smol/chat.json

None of them was replayed in training. The language model it was made from answers them too, for comparison. An answer
counts as sentences if it has five words or more, none of them more than a third of all, and begins like a sentence.
It loops if four words stand in it in the same order three times or more; it may be sentences all the same.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from probe_bundled import load_from
from training.smol.replay import ANSWER, answers, unseen
from transformers import LlamaForCausalLM

from sparsesight.bench import environment
from sparsesight.bundled.smol.base import base_file, read_base
from sparsesight.files import replace_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder that train_smol.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures and the answers")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--limit", type=int, help="only the first so many instructions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = read_base(base_file())
    before = LlamaForCausalLM(base.config).eval()
    before.load_state_dict(base.state)
    asked = unseen()[: arguments.limit]
    told = compared(before, *load_from(arguments.model), base.tokenizer, asked)
    facts = {"made_with": environment("cpu", torch.float32), "model": str(arguments.model), **told}
    replace_file(arguments.out, json.dumps(facts, indent=2) + "\n")
    print(json.dumps({name: value for name, value in told.items() if name != "answers"}))


def compared(before: Any, after: Any, processor: Any, tokenizer: Any, asked: list[str]) -> dict[str, Any]:
    """Shares of answers that are sentences, before and after, and of answers that begin alike."""
    said = {
        "base": answers(before, tokenizer, asked),
        "with_eyes": answers(after, processor.tokenizer, asked),
    }
    texts = {name: [tokenizer.decode(ids).strip() for ids in rows] for name, rows in said.items()}
    alike = [one[:5] == two[:5] for one, two in zip(*said.values(), strict=True)]
    return {
        "n": len(asked),
        "tokens": ANSWER,
        "sentences": {name: sum(map(sentences, rows)) / len(rows) for name, rows in texts.items()},
        "loops": {name: sum(map(loops, rows)) / len(rows) for name, rows in texts.items()},
        "same_first_five_tokens": sum(alike) / len(alike),
        "answers": [
            {"asked": question, **{name: rows[i] for name, rows in texts.items()}}
            for i, question in enumerate(asked)
        ],
    }


def sentences(text: str) -> bool:
    """Whether a text reads as sentences do: five words or more, no word a third of them, a proper beginning."""
    words = text.lower().split()
    if len(words) < 5 or max(Counter(words).values()) > len(words) / 3:
        return False
    return text[0].isupper() or text[0].isdigit() or text[0] in "\"'*-("


def loops(text: str) -> bool:
    """Whether four words stand in a text in the same order three times or more."""
    words = text.lower().split()
    return max(Counter(zip(*(words[i:] for i in range(4)), strict=False)).values(), default=0) >= 3


if __name__ == "__main__":
    main()
