"""Options of an evaluation run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvalOptions:
    """The options of a run, checked by those who use them.

    Attributes:
        tasks: names of tasks.
        model: a folder, Hub id, "bundled" or "smol"; None for the bundled model.
        batch_size: questions per forward.
        limit: questions per task; None for all.
        data: folder with local copies of the data; None for the Hub.
        prompts: how the model is asked: ``"own"``, ``"llava-1.5"`` or ``"auto"``.
        latency: whether prefills are timed.
        trim_early_layers: see :func:`sparsesight.sparsify`.
        same_retain: give every method the same average number of tokens in place of the same prefill arithmetic.
        device, dtype: as the command line names them.
        trust_remote_code: whether code that comes with the model may run.
        text_tower: folder or Hub id of the text tower, for methods that read one.
        question, score, max_new_tokens: of own data: asked about every picture of a folder, how answers are scored, and
            the longest answer.
        difficult: folder of a run of ``TASK@N``, whose wrong answers are a group of their own; None for no such group.
        out: the run folder.
        resume: continue the run in that folder.
    """

    tasks: tuple[str, ...]
    model: str | None = None
    batch_size: int = 8
    limit: int | None = None
    data: Path | None = None
    prompts: str = "auto"
    latency: bool = False
    trim_early_layers: bool = False
    same_retain: bool = False
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    text_tower: str | None = None
    question: str | None = None
    score: str | None = None
    max_new_tokens: int = 32
    difficult: Path | None = None
    out: Path = Path("eval-run")
    resume: bool = False
