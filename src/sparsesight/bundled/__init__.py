"""The models that come with the package, by name, and example pictures.

"bundled" is an ordinary LLaVA checkpoint of 5 MB, so that every example, test and benchmark runs without a
download, on the CPU of a laptop. Its model card is `README.md` in this folder. "smol" is a LLaVA with a pretrained
language model of 30 layers, for which the extra `smol` is needed (:mod:`.smol`). Both were trained on the scenes of
`sparsesight.scenes`.
"""

import json
from pathlib import Path
from typing import Any

from ..errors import SparseSightError

BUNDLED, SMOL = NAMES = ("bundled", "smol")
MODEL_PATH = Path(__file__).parent / "model"
_PICTURES = Path(__file__).parent / "pictures"


def folder(name: str = BUNDLED) -> Path:
    """The folder of one of :data:`NAMES`, as `from_pretrained` and `--model` read it.

    Raises:
        SparseSightError: another name; or "smol", and it cannot be assembled.
    """
    if name == SMOL:
        from .smol.cached import folder

        return folder()
    if name != BUNDLED:
        raise SparseSightError(
            f"name={name!r} is no model of this package: use {' or '.join(map(repr, NAMES))}; a dtype is named: "
            'load(dtype="float16")'
        )
    return MODEL_PATH


def load(name: str = BUNDLED, dtype: Any = "float32", device: Any = "cpu") -> tuple[Any, Any]:
    """A model, in eval mode, and its processor, through the stock auto classes of transformers.

    Args:
        name: one of :data:`NAMES`.
        dtype, device: what `from_pretrained(dtype=...)` and `Module.to` accept.

    Raises:
        SparseSightError: another name; or "smol", and it cannot be assembled.
    """
    from ..torchvision_schemas import mend_torchvision

    where = folder(name)
    mend_torchvision()
    # Imported here because this takes seconds, and the pictures need none of it.
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(where, dtype=dtype, local_files_only=True)
    processor = AutoProcessor.from_pretrained(where, local_files_only=True)
    return model.to(device).eval(), processor


def pictures() -> list[Path]:
    """The paths of the bundled pictures, the default one first."""
    return [_PICTURES / name for name in _catalogue()]


def default_picture() -> Path:
    """The picture that examples use when none is named."""
    return pictures()[0]


def picture_questions() -> dict[str, list[dict[str, str]]]:
    """Questions that the model answers correctly: picture file name -> list of {"question", "answer", "kind"}."""
    return {name: entry["questions"] for name, entry in _catalogue().items()}


def _catalogue() -> dict[str, dict[str, Any]]:
    """What `questions.json` says of each picture: its questions, its seed and the version of the scenes."""
    text = (_PICTURES / "questions.json").read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, Any]] = json.loads(text)
    return catalogue
