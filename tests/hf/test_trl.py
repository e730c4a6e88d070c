"""TRL's trainers on the bundled model: answers that are trained or scored choose nothing of the picture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sparsesight import bundled, sparsify

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

QUESTION = "What color is the heart?"
ASKED = [{"role": "user", "content": QUESTION}]
RETAIN = {"retain": 128}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(bundled.default_picture()).convert("RGB")


def expected(picture: Image.Image, special: bool) -> list[torch.Tensor]:
    """What is kept for the prompt alone, with or without the token that begins a text."""
    model, processor = bundled.load()
    shown = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(shown, add_generation_prompt=True)
    inputs = processor(text=text, images=picture, return_tensors="pt", add_special_tokens=special)
    with sparsify(model, **RETAIN) as run:
        model.generate(**inputs, max_new_tokens=1)
    return [stage[0] for stage in run.kept]


def watched(model: Any, run: Any, seen: list[Any]) -> None:
    """Collect what every prefill of a model keeps."""
    model.register_forward_hook(
        lambda *_: seen.append(run.kept) if run.kept is not (seen or [None])[-1] else None
    )


def options(kind: str, folder: Path, **how: Any) -> Any:
    common: dict[str, Any] = {
        "max_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
    }
    return getattr(trl, kind)(output_dir=str(folder), per_device_train_batch_size=2, **common, **how)


def check(seen: list[Any], expected: list[torch.Tensor]) -> None:
    assert seen
    for kept in seen:
        for stage, alone in zip(kept, expected, strict=True):
            assert all(torch.equal(sample, alone) for sample in stage)


@pytest.mark.slow
def test_dpo_with_a_sparse_reference(tmp_path: Path, picture: Image.Image) -> None:
    model, processor = bundled.load()
    reference, _ = bundled.load()
    rows = [
        {
            "images": [picture],
            "prompt": ASKED,
            "chosen": said("white"),
            "rejected": said("a large purple one"),
        }
    ]
    seen: list[Any] = []
    with sparsify(reference, **RETAIN) as run:
        watched(reference, run, seen)
        trl.DPOTrainer(
            model,
            reference,
            options("DPOConfig", tmp_path, max_length=None),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=processor,
        ).train()
        assert len(run.report.samples) == 2  # chosen and rejected
    check(seen, expected(picture, special=False))


def test_grpo_generates_and_scores_over_the_same_tokens(tmp_path: Path, picture: Image.Image) -> None:
    model, processor = bundled.load()
    seen: list[Any] = []
    with sparsify(model, **RETAIN) as run:
        watched(model, run, seen)
        trl.GRPOTrainer(
            model,
            lambda completions, **_: [float(i) for i in range(len(completions))],
            options("GRPOConfig", tmp_path, num_generations=2, max_completion_length=3, learning_rate=0.0),
            train_dataset=datasets.Dataset.from_list([{"images": [picture], "prompt": ASKED}]),
            processing_class=processor,
        ).train()
        scored = run.report.samples[0].text_tokens
    check(seen, expected(picture, special=True))
    assert scored > len(processor.tokenizer(QUESTION).input_ids)


def test_sft_by_completions_and_on_everything(tmp_path: Path, picture: Image.Image) -> None:
    """TRL's default labels for whole conversations are on the picture's tokens too: ignored, with one warning."""
    model, processor = bundled.load()
    kinds = {
        "completions": {"prompt": ASKED, "completion": said("white")},
        "everything": {"messages": [*ASKED, *said("white")]},
    }
    for kind, row in kinds.items():
        seen: list[Any] = []
        with sparsify(model, **RETAIN) as run, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            watched(model, run, seen)
            trainer = trl.SFTTrainer(
                model,
                options("SFTConfig", tmp_path, max_length=None),
                train_dataset=datasets.Dataset.from_list([{"images": [picture], **row}]),
                processing_class=processor,
            )
            trainer.train()
            loss = trainer.state.log_history[-1]["train_loss"]
        messages = [
            str(w.message) for w in warned if "would be predicted from visual tokens" in str(w.message)
        ]
        assert len(messages) == (kind == "everything") and torch.tensor(loss).isfinite()
        if kind == "completions":
            check(seen, expected(picture, special=False))
        else:
            assert all(len(stage) for kept in seen for stage in kept[0])
