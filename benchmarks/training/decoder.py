"""Stage two: the language model learns to answer, over visual tokens computed once.

Many questions share one picture: they stand behind it one after another, and a block mask keeps each from
seeing the others. Every question gets the positions it would have alone, so training sees what inference does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .data import KIND_NAMES, PATCHES, PROMPT, Scenes, Texts

ASKED_WEIGHT = 0.2  # of the words of a question in the loss, to those of its answer
CLOSING_WEIGHT = 0.2  # of </s>, whose prediction is easy


@dataclass
class Packed:
    """Questions about a batch of pictures, as tensors."""

    ids: torch.Tensor  # [pictures, m]: text after the picture, questions one behind the other
    positions: torch.Tensor  # [pictures, prefix + m]
    mask: torch.Tensor  # [pictures, 1, prefix + m, prefix + m]: 0 where attention may go, -inf where not
    at: torch.Tensor  # [targets]: flat indices into [pictures, m]
    targets: torch.Tensor  # [targets]
    answer: torch.Tensor  # bool [targets]: the target belongs to an answer, not to a question
    thought: (
        torch.Tensor
    )  # [targets, words]: ids that the token before the target should bring to mind, or zeros
    sought: (
        torch.Tensor
    )  # bool [targets, n]: patches of the neighbour that the token before the target is to find
    question: np.ndarray  # [targets]: a number per question
    kind: np.ndarray  # [targets]


def pack(scenes: Scenes, texts: Texts, rows: np.ndarray, slots: np.ndarray, visible: np.ndarray) -> Packed:
    """The texts `slots` [pictures, k] about the scenes `rows`, with the patches `visible` [pictures, n] shown."""
    pictures, count = slots.shape
    prefix = len(PROMPT) + visible.shape[1]
    tokens = texts.tokens[rows[:, None], slots].astype(np.int64)
    given = texts.given[rows[:, None], slots].astype(np.int64)
    length = texts.length[rows[:, None], slots].astype(np.int64) - 1  # </s> is predicted, never read
    ends = length.cumsum(axis=1)
    m = int(ends[:, -1].max())
    ids = np.zeros((pictures, m), dtype=np.int64)
    goal, segment = np.zeros_like(ids), np.full_like(ids, -1)
    offset = np.zeros_like(ids)
    in_answer = np.zeros(ids.shape, dtype=bool)
    brought, seeks = np.full_like(ids, -1), np.full_like(ids, -1)
    for row in range(pictures):
        for k in range(count):
            end, size = ends[row, k], length[row, k]
            here = slice(end - size, end)
            ids[row, here] = tokens[row, k, :size]
            goal[row, here] = tokens[row, k, 1 : size + 1]
            segment[row, here], offset[row, here] = k, np.arange(size)
            brought[row, here] = texts.thought[rows[row], slots[row, k], :size]
            asked = end - size + given[row, k]  # where the answer begins
            in_answer[row, asked - 1 : end] = True
            seeks[row, asked - 3 : end - 1] = texts.sought[rows[row], slots[row, k]]  # from "?" on
    at = np.flatnonzero(segment >= 0)
    which = (np.arange(pictures)[:, None] * count + segment).ravel()[at]
    owner = np.take_along_axis(scenes.owner[rows], visible, axis=1)
    sought = (seeks[..., None] == owner[:, None]) & (seeks[..., None] >= 0)
    about = np.where(brought[..., None] >= 0, scenes.about[rows[:, None], brought], 0)
    positions = np.concatenate(
        [
            np.broadcast_to(np.arange(len(PROMPT)), (pictures, len(PROMPT))),
            visible + len(PROMPT),
            offset + len(PROMPT) + PATCHES,
        ],
        axis=1,
    )
    own = torch.from_numpy(segment)
    together = (own[:, :, None] == own[:, None, :]) & torch.ones(m, m, dtype=torch.bool).tril()
    open_to = torch.zeros(pictures, 1, prefix + m, prefix + m, dtype=torch.bool)
    open_to[:, 0, :prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    open_to[:, 0, prefix:, :prefix] = True
    open_to[:, 0, prefix:, prefix:] = together
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=torch.zeros(open_to.shape).masked_fill_(~open_to, torch.finfo(torch.float32).min),
        at=torch.from_numpy(at),
        targets=torch.from_numpy(goal.ravel()[at]),
        answer=torch.from_numpy(in_answer.ravel()[at]),
        thought=torch.from_numpy(about.reshape(-1, about.shape[-1])[at].astype(np.int64)),
        sought=torch.from_numpy(sought.reshape(-1, visible.shape[1])[at]),
        question=which,
        kind=texts.kind[rows[:, None], slots].ravel()[which],
    )


def choose(scenes: Scenes, rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Patches [pictures, n] to show, in order: every object's middle, two more of each object, then any."""
    owner = scenes.owner[rows]
    if n == owner.shape[1]:
        return np.tile(np.arange(n), (len(rows), 1))
    draw = rng.random(owner.shape)
    by_object = np.argsort(owner + draw, axis=1)
    ordered = np.take_along_axis(owner, by_object, axis=1)
    third = ordered != np.roll(ordered, 2, axis=1)  # among the first two of its object in this random order
    early = np.zeros_like(third)
    np.put_along_axis(early, by_object, third, axis=1)
    value = draw + (early & (owner >= 0)) + 2 * scenes.central[rows]
    return np.sort(np.argpartition(-value, n, axis=1)[:, :n], axis=1)


def logits(model: Any, visual: torch.Tensor, packed: Packed) -> torch.Tensor:
    """The predictions at the targets [targets, words], from visual tokens [pictures, n, width]."""
    return run(model, visual, packed)[0]


def logits_and_search(model: Any, visual: torch.Tensor, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """The predictions, and how badly attention finds what questions about a neighbour seek.

    That is minus the log of the attention on the neighbour's patches, in the four heads of any layers that find it
    best: which heads, and at which depth, is the model's own affair.
    """
    result, attentions = run(model, visual, packed, output_attentions=True)
    seeking = packed.sought.any(-1)
    text, n = packed.ids.shape[1], visual.shape[1]
    at, sought = packed.at[seeking].to(visual.device), packed.sought[seeking].to(visual.device)
    found = []
    for weights in attentions:  # [pictures, heads, prefix + m, prefix + m]
        rows = weights[:, :, -text:, len(PROMPT) : len(PROMPT) + n].transpose(1, 2).flatten(0, 1)[at]
        mass = (rows.float() * sought[:, None]).sum(-1)
        found.append(mass.clamp(min=1e-4).log().mean(0))
    return result, -torch.cat(found).topk(4).values.mean()


def run(model: Any, visual: torch.Tensor, packed: Packed, **how: Any) -> tuple[torch.Tensor, Any]:
    table = model.get_input_embeddings()
    device = visual.device
    start = table(torch.tensor(PROMPT, device=device)).expand(len(visual), -1, -1)
    out = model.model.language_model(
        inputs_embeds=torch.cat([start, visual, table(packed.ids.to(device))], dim=1),
        position_ids=packed.positions.to(device),
        attention_mask=packed.mask.to(device),
        use_cache=False,
        **how,
    )
    text = out.last_hidden_state[:, -packed.ids.shape[1] :].flatten(0, 1)
    return model.lm_head(text[packed.at.to(device)]), out.attentions


def loss(predicted: torch.Tensor, packed: Packed, closing: int, thoughts: float = 0.0) -> torch.Tensor:
    """Cross entropy over answers, over questions with less weight, and over thoughts with the weight `thoughts`.

    A question's words depend on the picture too ("Where is the red ..." names something that is there), and
    each has to be looked up in one step where an answer takes two: so lookups are learned first. A thought asks for
    all the words that are true of the object a token should bring to mind: a chain of lookups is learned link by link.
    """
    targets, answer = packed.targets.to(predicted.device), packed.answer.to(predicted.device)
    weight = torch.where(answer, 1.0, ASKED_WEIGHT)
    weight = torch.where(targets == closing, CLOSING_WEIGHT, weight)
    likelihood = F.log_softmax(predicted.float(), dim=-1)
    each = -likelihood.gather(-1, targets[:, None])[:, 0]
    result = (each * weight).sum() / (weight * answer).sum()
    if thoughts:
        words = packed.thought.to(predicted.device)
        missed = -(likelihood.gather(-1, words) * (words > 0)).sum(-1) / (words > 0).sum(-1).clamp(min=1)
        result = result + thoughts * missed.sum() / (weight * answer).sum()
    return result


def caption_loss(predicted: torch.Tensor, packed: Packed, closing: int) -> torch.Tensor:
    """Cross entropy over captions.

    A caption's words stand in random order, so each of those still to come is as likely as the others to be
    next. Asking for all of them at once is the mean over the orders, without the noise of drawing one.
    """
    targets = packed.targets
    same = torch.from_numpy(packed.question)
    loose = targets != closing
    ahead = (same[:, None] == same[None, :]).triu()
    ahead &= torch.where(loose[:, None], loose[None, :], torch.eye(len(targets), dtype=torch.bool))
    now, then = ahead.nonzero(as_tuple=True)
    wanted = torch.zeros(len(targets), predicted.shape[1])
    wanted[now, targets[then]] = 1.0
    wanted /= wanted.sum(-1, keepdim=True)
    return F.cross_entropy(predicted.float(), wanted.to(predicted.device))


def thought(predicted: torch.Tensor, packed: Packed, groups: dict[str, list[int]]) -> dict[str, list[bool]]:
    """Which thoughts are right: "kind/which/group", such as "neighbor/1/row" -> whether its likeliest word is true.

    `which` counts a question's thoughts; `groups` are the ids of words of which one is true, such as all rows.
    """
    result: dict[str, list[bool]] = {}
    at = np.flatnonzero((packed.thought > 0).any(-1).numpy())
    question = packed.question[at]
    which = np.arange(len(at)) - np.searchsorted(question, question)  # questions stand in order
    for name, ids in groups.items():
        likeliest = torch.tensor(ids)[predicted[at][:, ids].argmax(-1).cpu()]
        hits = (packed.thought[at] == likeliest[:, None]).any(-1)
        for kind, place, hit in zip(packed.kind[at], which, hits.tolist(), strict=True):
            result.setdefault(f"{KIND_NAMES[kind]}/{place}/{name}", []).append(hit)
    return result


def right(predicted: torch.Tensor, packed: Packed) -> dict[str, list[bool]]:
    """Kind -> for each of its questions, whether every token of the answer is the likeliest."""
    hits = (predicted.argmax(-1).cpu() == packed.targets).numpy()
    answer = packed.answer.numpy()
    result: dict[str, list[bool]] = {name: [] for name in KIND_NAMES}
    for number in np.unique(packed.question):
        mine = (packed.question == number) & answer
        result[KIND_NAMES[packed.kind[mine][0]]].append(bool(hits[mine].all()))
    return result
