"""Plain instructions and what the base model itself answers to them: replayed, so that it can still be talked to.

(Self-distillation: the targets are the base model's own greedy answers, so nothing new is taught.)
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .prompts import CLOSING, OPENING, SYSTEM, Prompts

ANSWER = 48  # tokens that are replayed of an answer

COUNTRIES = (
    "France Japan Brazil Egypt Canada Italy Kenya India Norway Mexico Greece Peru Spain Poland Cuba Chile"
)
ANIMALS = (
    "dogs cats whales horses bees owls lions frogs penguins elephants sharks ants rabbits eagles snakes bears"
)
THINGS = [
    "rain",
    "music",
    "gravity",
    "bread",
    "the ocean",
    "sleep",
    "a bridge",
    "money",
    "the moon",
    "coffee",
    "a library",
    "electricity",
    "friendship",
    "a garden",
    "the weather",
    "history",
    "winter",
    "a bicycle",
    "chess",
    "photosynthesis",
    "a computer",
    "soap",
    "the heart",
    "a school",
    "honesty",
    "fire",
    "glass",
    "a river",
    "football",
    "cheese",
]
TASKS = [
    "make tea",
    "learn a language",
    "fix a flat tyre",
    "write a letter",
    "plant a tree",
    "save money",
    "cook rice",
    "clean a window",
    "sleep better",
    "prepare for an exam",
    "bake a cake",
    "draw a horse",
    "find a job",
    "keep a diary",
    "train a dog",
    "pack a suitcase",
]
TEMPLATES: tuple[tuple[str, list[str]], ...] = (
    ("What is the capital of {}?", COUNTRIES.split()),
    ("Tell me something about {}.", COUNTRIES.split()),
    ("Give me three facts about {}.", ANIMALS.split()),
    ("Where do {} live?", ANIMALS.split()),
    ("Explain in one sentence what {} is.", THINGS),
    ("Why is {} important?", THINGS),
    ("Write a short poem about {}.", THINGS),
    ("Write a sentence with the words 'yesterday' and '{}'.", THINGS),
    ("How do I {}?", TASKS),
    ("What do I need to {}?", TASKS),
    ("Is it hard to {}?", TASKS),
    ("What is {}?", [f"{a} plus {b}" for a, b in product((2, 3, 7, 12), (1, 4, 5, 9))]),
)


# Subjects and forms that are asked in checks alone.
UNSEEN: tuple[tuple[str, list[str]], ...] = (
    (
        "What is the capital of {}?",
        ["Sweden", "Portugal", "Austria", "Finland", "Ireland", "Turkey", "Thailand", "Vietnam", "Colombia"],
    ),
    (
        "What do {} eat?",
        ["cows", "tigers", "dolphins", "parrots", "turtles", "mice", "wolves", "spiders", "monkeys", "foxes"],
    ),
    (
        "Name two uses of {}.",
        ["paper", "water", "salt", "wood", "cotton", "steel", "oil", "sand", "ice", "honey"],
    ),
    (
        "Who might enjoy {}?",
        ["hiking", "painting", "opera", "fishing", "puzzles", "dancing", "sailing", "baking"],
    ),
    (
        "Describe {} to a child.",
        [
            "a volcano",
            "the sun",
            "a dentist",
            "snow",
            "a rocket",
            "an airport",
            "a shadow",
            "the wind",
            "a map",
        ],
    ),
    (
        "What is the difference between {}?",
        ["a lake and a sea", "tea and coffee", "a cat and a lion", "a town and a city", "salt and sugar"],
    ),
    (
        "Give me advice on {}.",
        ["moving house", "a first date", "learning piano", "running", "public speaking"],
    ),
    (
        "Write a short story about {}.",
        ["a lost key", "two brothers", "an old ship", "a talking tree", "a storm"],
    ),
)


def unseen() -> list[str]:
    """200 plain instructions that no training replays: the held-out ones, these, and more of their forms."""
    more = [template.format(subject) for template, subjects in UNSEEN for subject in subjects]
    forms = ("Tell me a fact about {}.", "Can you say more about {}?", "What should I know about {}?")
    topics = [subject for _, subjects in UNSEEN[2:5] for subject in subjects]
    more += [
        form.format(subject) for form in forms for subject in (*topics, *THINGS[3::4], *ANIMALS.split()[3::4])
    ]
    return [*instructions()[1], *more][:200]


def instructions() -> tuple[list[str], list[str]]:
    """Instructions for training and held-out ones, in a fixed mixed order; every fourth subject is held out."""
    kept, held = [], []
    for template, subjects in TEMPLATES:
        for index, subject in enumerate(subjects):
            (held if index % 4 == 3 else kept).append(template.format(subject))
    rng = np.random.default_rng(0)
    return [kept[i] for i in rng.permutation(len(kept))], [held[i] for i in rng.permutation(len(held))]


def answers(
    model: Any, tokenizer: Any, asked: list[str], limit: int = ANSWER, batch: int = 32
) -> list[list[int]]:
    """The model's greedy answers as token ids, without what ends them if that came in time."""
    tokenizer.padding_side = "left"
    said: list[list[int]] = []
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for first in range(0, len(asked), batch):
        texts = [SYSTEM + OPENING + text + CLOSING for text in asked[first : first + batch]]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(
                **inputs, max_new_tokens=limit, do_sample=False, eos_token_id=stop, pad_token_id=stop
            )
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            said.append(row[: row.index(stop)] if stop in row else row)
    return said


class Replay:
    """Instructions with their answers as token ids, to be drawn from."""

    def __init__(self, prompts: Prompts, asked: list[str], said: list[list[int]]) -> None:
        self.opening = prompts.ids(SYSTEM) + prompts.opening
        self.texts = []
        for text, answer in zip(asked, said, strict=True):
            given = prompts.ids(text) + prompts.closing
            ended = [*answer, prompts.end] if len(answer) < ANSWER else answer
            self.texts.append(((*given, *ended[:-1]), len(given), tuple(ended)))

    def draw(self, rng: np.random.Generator, n: int) -> list[tuple[tuple[int, ...], int, tuple[int, ...]]]:
        return [self.texts[index] for index in rng.choice(len(self.texts), n, replace=False)]


def load_or_make(file: Path, model: Any, prompts: Prompts) -> Replay:
    """The training instructions with the base model's answers, from `file` if a run has written it."""
    asked = instructions()[0]
    if not file.exists():
        fresh = file.with_suffix(".new")
        torch.save(answers(model, prompts.tokenizer, asked), fresh)
        fresh.replace(file)
    return Replay(prompts, asked, torch.load(file))
