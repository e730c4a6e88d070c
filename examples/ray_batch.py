"""Ask many questions about pictures offline: Ray Data on vLLM engines that prune visual tokens.

    python examples/ray_batch.py                                          # the bundled model, pictures and questions
    python examples/ray_batch.py --model llava-hf/llava-1.5-7b-hf --questions questions.jsonl --engines 8 --gpus 1

Each line of the questions file is {"picture": "path.png", "question": "...", "retain": 64}; "retain" is optional and
defaults to --retain. Answers go to --out as JSON lines. Needs vLLM, sparsesight and `pip install 'ray[data]'`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image

from sparsesight import bundled
from sparsesight.method_names import DEFAULT


def main() -> None:
    arguments = parse()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(num_cpus=arguments.cpus, include_dashboard=False)
    engine: dict[str, Any] = {
        "additional_config": {"sparsesight": {"method": arguments.method, "retain": arguments.retain}},
        "max_model_len": arguments.max_model_len,
        "limit_mm_per_prompt": {"image": 1},
    }
    if not arguments.gpus:
        engine |= {"dtype": "float32", "enforce_eager": True}
    config = vLLMEngineProcessorConfig(
        model_source=arguments.model,
        engine_kwargs=engine,
        placement_group_config={"bundles": [{"GPU": arguments.gpus} if arguments.gpus else {"CPU": 1}]},
        runtime_env={"env_vars": {"VLLM_USE_V2_MODEL_RUNNER": "0"}},
        chat_template_stage={"enabled": True, "num_cpus": 0.5},
        tokenize_stage=False,
        detokenize_stage=False,
        concurrency=(arguments.engines, arguments.engines),
        batch_size=arguments.batch,
        log_engine_metrics=False,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: request(row, arguments.tokens),
        postprocess=lambda row: {
            "picture": row["picture"],
            "question": row["question"],
            "retain": row["retain"],
            "answer": row["generated_text"].strip(),
        },
    )
    asked = questions(arguments.questions, arguments.retain)
    answers = processor(ray.data.from_items(asked)).take_all()
    with arguments.out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(answer) + "\n" for answer in answers)
    print(f"{len(answers)} answers in {arguments.out}")


def questions(path: Path | None, retain: int) -> list[dict[str, Any]]:
    """The lines of a file; without one, the bundled questions."""
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [{"retain": retain, **json.loads(line)} for line in lines if line.strip()]
    asked = bundled.picture_questions()
    return [
        {"picture": str(picture), "question": entry["question"], "retain": retain}
        for picture in bundled.pictures()
        for entry in asked[picture.name]
    ]


def request(row: dict[str, Any], tokens: int) -> dict[str, Any]:
    """What Ray's stages need of a row.

    The picture goes to vLLM as it is: Ray's own stage for pictures (2.60) looks for a module that vLLM 0.32 moved.
    """
    content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
    return {
        **row,
        "messages": [{"role": "user", "content": content}],
        "multimodal_data": {"image": Image.open(row["picture"]).convert("RGB")},
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": tokens,
            "extra_args": {"sparsesight_retain": row["retain"]},
        },
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=str(bundled.MODEL_PATH), help="name or folder (default: the bundled one)")
    add("--questions", type=Path, help="JSON lines (default: the bundled ones)")
    add("--out", type=Path, default=Path("answers.jsonl"), help="(default: answers.jsonl)")
    add("--method", default=DEFAULT, help=f"(default: {DEFAULT})")
    add("--retain", type=int, default=64, help="visual tokens per layer (default: 64)")
    add("--tokens", type=int, default=16, help="output tokens at most (default: 16)")
    add("--max-model-len", type=int, default=1024, help="tokens of prompt and answer (default: 1024)")
    add("--engines", type=int, default=1, help="vLLM engines (default: 1)")
    add("--gpus", type=int, default=0, help="of each engine, 0 or 1 (default: 0, on CPUs)")
    add("--cpus", type=int, help="that Ray may use (default: all)")
    add("--batch", type=int, default=16, help="rows that go to an engine together (default: 16)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
