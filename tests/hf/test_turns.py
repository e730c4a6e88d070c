"""Which turn judges: a chat sent whole is what it is turn by turn over a kept cache, in tokens kept and in logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from sparsesight import SparseVLM, sparsify
from sparsesight.core.turns import Turns
from tests.hf import tiny
from tests.hf.families.base import Family, Sample, picture
from tests.hf.families.gemma_like import FAMILIES as GEMMA
from tests.hf.families.llava_like import FAMILIES as LLAVA
from tests.hf.families.qwen_like import FAMILIES as QWEN
from tests.hf.oracle import oracle_logits

END = "ASSISTANT :"
FAMILY = {family.name: family for family in (*LLAVA, *QWEN, *GEMMA)}
# A turn with a picture, one of text alone, one with two pictures; every turn begins with the answer before it.
CHAT = (
    Sample("USER : <image> what is the red star ? ASSISTANT :", (picture(1),)),
    Sample("a blue ring </s> USER : what is a star ? ASSISTANT :"),
    Sample(
        "left </s> USER : <image> and <image> how many small blue ring ? ASSISTANT :",
        (picture(2), picture(3)),
    ),
)


def prompts(family: Family, turns: tuple[Sample, ...] = CHAT) -> list[dict[str, Any]]:
    return [{k: v for k, v in family.prompts([turn]).items() if v is not None} for turn in turns]


def joined(turns: list[dict[str, Any]], sequence: tuple[str, ...]) -> dict[str, Any]:
    """The chat as one prompt: what has a column for each token is joined there, pictures follow one another."""
    names = dict.fromkeys(name for turn in turns for name in turn)
    return {k: torch.cat([t[k] for t in turns if k in t], 1 if k in sequence else 0) for k in names}


def end_ids(family: Family) -> list[list[int]]:
    ids = family.prompts([CHAT[0]])["input_ids"][0, -2:].tolist()
    return [ids]


@pytest.mark.parametrize(
    ("name", "attention", "method"),
    [
        ("llava", "eager", {"method": "sparsevlm+", "retain": 0.4}),
        ("llava", "sdpa", {"method": "sparsevlm", "retain": 0.4}),  # merges
        ("llava", "sdpa", {"method": "divprune", "retain": 0.3}),  # before the decoder
        ("llava", "eager", {"method": "cdpruner", "retain": 0.3}),
        ("llava", "sdpa", {"method": "random", "retain": 0.3}),
        ("llava", "sdpa", {"method": "halves", "retain": 0.4, "proportional": True}),
        ("llava", "eager", {"method": "sparsevlm", "retain": 0.4, "proportional": True}),
        ("gemma3", "sdpa", {"method": "halves", "retain": 0.4, "proportional": True}),
        ("llava", "sdpa", {"method": "fastv", "retain": 0.3, "per_frame": True}),
        ("qwen2_5_vl", "sdpa", {"method": "fastv", "retain": 0.5}),  # several axes of positions
        ("qwen2_5_vl", "eager", {"method": "sparsevlm+", "retain": 0.4}),
        ("gemma3", "sdpa", {"method": "sparsevlm+", "retain": 0.5}),  # sliding windows
        ("gemma3", "eager", {"method": "divprune", "retain": 0.3}),
    ],
)
def test_whole_equals_turn_by_turn(name: str, attention: str, method: dict[str, Any]) -> None:
    family = FAMILY[name]
    # The dense gemma3 itself sees a later picture otherwise over a cache (in both directions only in a first forward).
    chat = (*CHAT[:2], CHAT[1]) if name == "gemma3" else CHAT
    model, turns = family.build(attention), prompts(family, chat)
    sequence = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    whole = joined(turns, sequence)
    if hasattr(model.model, "get_rope_index"):  # positions of later turns are the whole chat's
        grids = {k: v for k, v in whole.items() if k.endswith("_thw")}
        kinds = {k: v for k, v in whole.items() if k == "mm_token_type_ids"}
        whole["position_ids"] = model.model.get_rope_index(
            whole["input_ids"], attention_mask=whole["attention_mask"], **grids, **kinds
        )[0]
    cache = DynamicCache(config=model.config.get_text_config())
    logits: list[Tensor] = []
    kept: list[list[Tensor]] = []
    with torch.no_grad(), sparsify(model, turns=end_ids(family), **method) as run:
        dense = model(**whole).logits
        in_one = [stage[0] for stage in run.kept]
        regions = run.report.samples[0].regions
        begin = visual = 0
        for turn in turns:
            end = begin + turn["input_ids"].shape[1]
            own = {**turn, "attention_mask": whole["attention_mask"][:, :end]}
            if "position_ids" in whole:
                own["position_ids"] = whole["position_ids"][..., begin:end]
            logits.append(model(**own, past_key_values=cache).logits)
            if run.report.samples[0].visual_tokens and len(turn) > 2:
                kept.append([stage[0] + visual for stage in run.kept])
                visual += run.report.samples[0].visual_tokens
            begin = end
    assert [region.turn for region in regions] == [i for i, turn in enumerate(chat) if turn.images]
    assert len(kept) == len(regions)
    for at_once, *parts in zip(in_one, *kept, strict=True):
        assert torch.equal(at_once, torch.cat(parts))
    text = ~torch.isin(whole["input_ids"][0], torch.tensor(run.visual_ids))
    close(dense[0, text], torch.cat(logits, 1)[0, text])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def chat(*turns: int) -> tuple[str, list[Any]]:
    words = ["USER : <image> what is the red star ? ASSISTANT :",
             "blue </s> USER : <image> how many small ring left of ? ASSISTANT :",
             "ring </s> USER : what is a ring ? ASSISTANT :",
             "star </s> USER : and <image> the <image> red ring ? ASSISTANT :"]  # fmt: skip
    text = " ".join(words[i] for i in turns)
    return text, [tiny.picture(10 + i) for i in range(text.count("<image>"))]


CHATS = (chat(0, 1, 2), chat(3), chat(2, 0), chat(2))


@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "visionzip"])
def test_batch_and_oracle(method: str) -> None:
    """Chats of different numbers of turns are in a batch what they are alone, and both what a dense model says that
    does not see what was dropped."""
    model, processor = tiny.model(), tiny.processor()
    whole = tiny.inputs(processor, list(CHATS))
    options = {"recycle": 0.0} if method == "sparsevlm" else {}
    with (
        torch.no_grad(),
        sparsify(model, method, retain=20, turns=END, processor=processor, **options) as run,
    ):
        together, kept, raters = model(**whole).logits, run.kept, [run.raters(i) for i in range(4)]
        report = run.report
        alone = [tiny.inputs(processor, [sample]) for sample in CHATS]
        logits = []
        for i, prompt in enumerate(alone):
            logits.append(model(**prompt).logits[0])
            n = logits[i].shape[0]
            text = prompt.input_ids[0] != model.config.image_token_id
            close(together[i, -n:][text], logits[i][text])
            assert all(torch.equal(a[i], b[0]) for a, b in zip(kept, run.kept, strict=False))
            assert torch.equal(raters[i][-n:], run.raters(0)) and not raters[i][:-n].any()
    assert [len(sample.regions) for sample in report.samples] == [2, 1, 1, 0]
    each = [region.stages[-1].tokens_out for region in report.samples[0].regions]
    assert each[0] == each[1] and sum(each) == report.samples[0].visual_per_layer[-1]
    for i in (0, 1):
        ids = alone[i].input_ids[0]
        pixels = {"pixel_values": alone[i].pixel_values}
        oracle = oracle_logits(model, ids, [stage[i] for stage in kept], run.layers, **pixels)
        text = ids != model.config.image_token_id
        if run.layers[0] >= 0:
            close(logits[i][text], oracle[text])


def test_generation_is_the_same_turn_by_turn() -> None:
    """Through ``generate()``, with the answers it gives."""
    model, processor = tiny.model(), tiny.processor()
    pictures = [tiny.picture(20), tiny.picture(21)]
    texts = [
        "USER : <image> what is the red star ? ASSISTANT :",
        "</s> USER : <image> how many ring ? ASSISTANT :",
    ]
    cache = DynamicCache(config=model.config.get_text_config())
    ids = torch.zeros(1, 0, dtype=torch.long)
    how: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    with sparsify(model, "sparsevlm", retain=20, turns=END, processor=processor):
        for text, image in zip(texts, pictures, strict=True):
            turn = processor(text=[text], images=[image], return_tensors="pt")
            ids = torch.cat((ids, turn.input_ids), 1)
            prompt = {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "pixel_values": turn.pixel_values,
            }
            before, ids = ids, model.generate(**prompt, past_key_values=cache, **how)
        pixels = torch.cat(
            [processor(text=["<image>"], images=[x], return_tensors="pt").pixel_values for x in pictures]
        )
        whole = model.generate(
            input_ids=before, attention_mask=torch.ones_like(before), pixel_values=pixels, **how
        )
    assert torch.equal(whole, ids)


def test_published_settings_and_unknown_turns_are_judged_by_all_text() -> None:
    model, processor = tiny.model(), tiny.processor()
    prompt = tiny.inputs(processor, [chat(0, 1, 2)])

    def kept(**how: Any) -> list[list[Tensor]]:
        with torch.no_grad(), sparsify(model, **how) as run:
            model(**prompt)
        return run.kept

    plain = SparseVLM(20, positions="compact", always_drop=True)
    published = SparseVLM(20, positions="compact", always_drop=True, judged_by="prompt")
    without = kept(method=plain)
    for how in (
        {"method": published, "turns": END, "processor": processor},
        {"method": plain, "processor": processor},
    ):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(without, kept(**how), strict=True))
    by_turn = kept(method=plain, turns=END, processor=processor)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(without, by_turn, strict=True))
    assert SparseVLM.published(192).judged_by == "prompt"


# -- the question in front of its picture -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "fastv", "dart", "cdpruner"])
def test_the_question_chooses_wherever_it_stands(method: str) -> None:
    model, processor = tiny.model(), tiny.processor()

    def kept(question: str, role: str = "ASSISTANT :", head: str = "") -> tuple[list[Tensor], str, list[int]]:
        text = f"{head}USER : {question} <image> {role}"
        turns = Turns.of([role], processor)
        assert turns is not None
        turns = Turns(turns.end, Turns.of(["USER :"], processor).end, turns.template)  # type: ignore[union-attr]
        prompt = tiny.inputs(processor, [(text, [tiny.picture(1)])])
        with torch.no_grad(), sparsify(model, method, retain=0.3, turns=turns) as run:
            model(**prompt)
        (region,) = run.report.samples[0].regions
        return [stage[0] for stage in run.kept], region.judged_by, run.raters().nonzero()[:, 0].tolist()

    asked, where, raters = kept("what is the red star ?")
    other, _, _ = kept("how many small blue ring left of the ring ?")
    template, _, _ = kept("what is the red star ?", role="left of : ASSISTANT :")
    assert where == "before the picture" and all(3 <= x < 9 for x in raters)
    assert not all(torch.equal(a, b) for a, b in zip(asked, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(asked, template, strict=True))


def test_a_question_behind_is_left_as_published() -> None:
    model, processor = tiny.model(), tiny.processor()
    prompt = tiny.inputs(
        processor, [("USER : the star <image> what is red ? ASSISTANT :", [tiny.picture(1)])]
    )
    found = []
    for how in ({}, {"turns": END, "processor": processor}):
        with torch.no_grad(), sparsify(model, retain=20, **how) as run:
            logits = model(**prompt).logits
        found.append((logits, run.kept, run.raters(), run.report.samples[0].regions[0].judged_by))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][2], found[1][2])
    assert found[0][3] == found[1][3] == "after the picture"


@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "fastv", "cdpruner"])
@pytest.mark.parametrize("name", ["labels", "shift_labels"])
def test_answers_of_several_turns_judge_nothing(name: str, method: str) -> None:
    """A forward for training: labels on every answer. Later pictures and questions see an answer, but are not chosen by
    it."""
    model, processor = tiny.model(), tiny.processor()
    text, images = chat(0, 1, 2)
    kept = []
    for answers in (("blue", "ring", "star"), ("blue", "small", "left"), ("red", "ring", "star")):
        said = text
        for old, new in (("ASSISTANT : blue", answers[0]), ("ASSISTANT : ring", answers[1])):
            said = said.replace(old, f"ASSISTANT : {new}")
        prompt = tiny.inputs(processor, [(f"{said} {answers[2]} </s>", images)])
        ids = prompt["input_ids"]
        marks = Turns.of(END, processor).marks(ids)  # type: ignore[union-attr]
        answer = torch.zeros_like(ids, dtype=torch.bool)
        answer[:, 1:] = marks.end[:, :-1]  # type: ignore[index]
        assert answer.sum() == 3
        answer[:, 2:] |= answer[:, 1:-1].clone()  # and what ends it
        labels = torch.where(answer, ids, -100)
        if name == "shift_labels":
            labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        with torch.no_grad(), sparsify(model, method, retain=20, turns=END, processor=processor) as run:
            model(**prompt, **{name: labels})
            kept.append([stage[0] for stage in run.kept])
            raters, tokens = run.raters(0), run.report.samples[0].visual_tokens // 2
        assert not (raters & answer[0]).any()
    for first, later, earlier in zip(*kept, strict=True):
        assert torch.equal(first, later)
        assert torch.equal(first[first < tokens], earlier[earlier < tokens])
