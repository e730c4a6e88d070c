"""Documents packed into one row: each is what it is alone, in tokens kept and in logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsesight import sparsify
from tests.hf import tiny
from tests.hf.families.base import Sample, picture
from tests.hf.families.qwen_like import FAMILIES as QWEN
from tests.hf.test_flash import flash  # noqa: F401 - a fixture
from tests.hf.test_flash import packed as taken_for_packed

TEXTS = (
    "USER : <image> what is the red star ? ASSISTANT :",
    "what is a ring ? ASSISTANT :",  # no picture
    "USER : <image> how many small blue <image> ring left of the star ? ASSISTANT :",
)


def documents() -> list[Any]:
    processor, seed = tiny.processor(), iter(range(9))
    return [
        tiny.inputs(processor, [(text, [tiny.picture(next(seed)) for _ in range(text.count("<image>"))])])
        for text in TEXTS
    ]


def pack(alone: list[Any]) -> dict[str, Any]:
    return {
        "input_ids": torch.cat([x["input_ids"] for x in alone], 1),
        "position_ids": torch.cat([torch.arange(x["input_ids"].shape[1]) for x in alone])[None],
        "pixel_values": torch.cat([x["pixel_values"] for x in alone if "pixel_values" in x]),
        "use_cache": False,
    }


def compare(model: Any, run: Any, alone: list[Any], together: dict[str, Any], begin: int = 0) -> None:
    """Kept tokens and logits of text, of every document of one row that begins at column ``begin``."""
    logits = model(**together).logits[0, begin:]
    kept = [stage[0] for stage in run.kept]
    regions = run.report.samples[0].regions
    visual = at = 0
    for prompt in alone:
        own = model(**{k: v for k, v in prompt.items() if k != "attention_mask"}, use_cache=False).logits[0]
        n, count = own.shape[0], run.report.samples[0].visual_tokens
        text = ~torch.isin(prompt["input_ids"][0], torch.tensor(run.visual_ids))
        torch.testing.assert_close(logits[at : at + n][text], own[text], atol=1e-4, rtol=1e-4)
        for stage, expected in zip(kept, run.kept, strict=False):
            mine = stage[(stage >= visual) & (stage < visual + count)] - visual
            assert not count or torch.equal(mine, expected[0])
        at, visual = at + n, visual + count
    assert [region.turn for region in regions] == [i for i, x in enumerate(alone) if len(x) > 2]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "method",
    [
        {"method": "sparsevlm+", "retain": 0.4},
        {"method": "sparsevlm", "retain": 0.4, "positions": "compact"},  # merges, and numbers positions anew
        {"method": "divprune", "retain": 0.3},
        {"method": "fastv", "retain": 0.4, "judged_by": "prompt"},  # a published rule sees documents as well
        {"method": "random", "retain": 0.4},  # by a token's number
        {"method": "uniform", "retain": 0.4},  # by a frame's
        {"method": "sparsevlm+", "retain": 0.3, "per_frame": True},
    ],
    ids=str,
)
def test_packed_equals_alone(method: dict[str, Any], attention: str) -> None:
    model, alone = tiny.model(attention=attention), documents()
    with torch.no_grad(), sparsify(model, **method) as run:
        compare(model, run, alone, pack(alone))


@pytest.mark.parametrize("named", [False, True])
def test_flash_attention(flash: Any, named: bool) -> None:  # noqa: F811
    """Without a mask, documents are kept apart by positions, or by lengths that the caller names."""
    alone = documents()
    together = pack(alone)
    if named:
        lengths = (
            torch.tensor([0, *(x["input_ids"].shape[1] for x in alone)], dtype=torch.int32).cumsum(0).int()
        )
        together |= {
            "cu_seq_lens_q": lengths,
            "cu_seq_lens_k": lengths,
            "max_length_q": 99,
            "max_length_k": 99,
        }
    with torch.no_grad(), sparsify(flash, retain=0.4) as run:
        compare(flash, run, alone, together)
    assert set(taken_for_packed) == set(range(tiny.LAYERS))


@pytest.mark.parametrize(
    "method", [{"method": "tome"}, {"method": "uniform"}, {"method": "fastv", "per_frame": True}], ids=str
)
def test_pictures_side_by_side(method: dict[str, Any]) -> None:
    """A document that ends with a picture nobody asks about, in front of one that begins with its picture."""
    processor = tiny.processor()
    alone = [
        tiny.inputs(processor, [(text, [tiny.picture(i)])])
        for i, text in enumerate(("the blue ring <image>", "<image> what is the red star ?"))
    ]
    with torch.no_grad(), sparsify(tiny.model(), retain=0.4, **method) as run:
        compare(run.model, run, alone, pack(alone))
        run.model(**pack(alone))
        assert [clip.frames for clip in run.report.samples[0].clips] == [(64,), (64,)]


@pytest.mark.parametrize("method", ["sparsevlm+", "fastv", "cdpruner"])
def test_answers_within_documents(method: str) -> None:
    """Labels end the prompt of each document: it keeps what it keeps without its answer."""
    processor = tiny.processor()
    texts = [TEXTS[0], TEXTS[2]]
    answers = ["a small blue ring", "red"]
    pictures = [[tiny.picture(1)], [tiny.picture(2), tiny.picture(3)]]
    asked, whole = (
        [tiny.inputs(processor, [(text, own)]) for text, own in zip(given, pictures, strict=True)]
        for given in (texts, [f"{text} {answer}" for text, answer in zip(texts, answers, strict=True)])
    )
    together = pack(whole)
    labels = torch.full_like(together["input_ids"], -100)
    ends = torch.tensor([x["input_ids"].shape[1] for x in whole]).cumsum(0).tolist()
    for end, answer in zip(ends, answers, strict=True):
        count = len(answer.split())
        labels[:, end - count : end] = together["input_ids"][:, end - count : end]
    with torch.no_grad(), sparsify(tiny.model(), method, retain=0.4) as run:
        run.model(**together, labels=labels)
        kept, raters = [stage[0] for stage in run.kept], run.raters()
        assert kept and not raters[labels[0] != -100].any()
        visual = 0
        for prompt in asked:
            run.model(**prompt)
            count = run.report.samples[0].visual_tokens
            for stage, alone in zip(kept, run.kept, strict=True):
                mine = stage[(stage >= visual) & (stage < visual + count)] - visual
                assert torch.equal(mine, alone[0])
            visual += count


def test_turns_within_documents() -> None:
    model, processor, alone = tiny.model(), tiny.processor(), documents()
    chat = "USER : <image> what ? ASSISTANT : a star </s> USER : <image> how many ring ? ASSISTANT :"
    alone[1] = tiny.inputs(processor, [(chat, [tiny.picture(7), tiny.picture(8)])])
    with torch.no_grad(), sparsify(model, retain=0.4, turns="ASSISTANT :", processor=processor) as run:
        model(**pack(alone))
        assert [x.turn for x in run.report.samples[0].regions] == [0, 1, 2, 3]
        kept = [stage[0] for stage in run.kept]
        model(**{k: v for k, v in alone[1].items() if k != "attention_mask"}, use_cache=False)
        for stage, expected in zip(kept, run.kept, strict=True):
            assert torch.equal(stage[(stage >= 64) & (stage < 192)] - 64, expected[0])


def test_several_axes_of_positions() -> None:
    """Plain positions in front of those of time, height and width, as Qwen2.5-VL takes packed documents."""
    family = next(x for x in QWEN if x.name == "qwen2_5_vl")
    model = family.build("sdpa")
    samples = [
        Sample("USER : <image> what is the red star ? ASSISTANT :", (picture(1),)),
        Sample("USER : <image> how many blue ring ? ASSISTANT :", (picture(2, 96, 48),)),
    ]
    alone = [family.prompts([sample]) for sample in samples]

    def position(x: dict[str, Any]) -> Tensor:
        kinds = {k: x[k] for k in ("image_grid_thw", "attention_mask", "mm_token_type_ids") if k in x}
        own = model.model.get_rope_index(x["input_ids"], **kinds)[0]
        return torch.cat((torch.arange(own.shape[2])[None, None], own))

    together = {
        k: torch.cat([x[k] for x in alone], 1 if k in ("input_ids", "mm_token_type_ids") else 0)
        for k in alone[0]
        if k != "attention_mask"
    }
    together |= {"position_ids": torch.cat([position(x) for x in alone], 2), "use_cache": False}
    with torch.no_grad(), sparsify(model, retain=0.4) as run:
        compare(model, run, alone, together)
