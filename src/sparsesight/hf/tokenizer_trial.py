"""Tries a checkpoint's tokenizer in a process of its own: native code that does not end, or fills the memory, can be
ended in no other way.
"""

from __future__ import annotations

import string
import subprocess  # nosec B404: it starts this interpreter with the code below, without a shell
import sys
from pathlib import Path

from ..checkpoint_limits import MEMORY
from ..errors import SparseSightError
from ..files import read_json

SECONDS = 10  # of a processor, reading the largest tokenizers included
MOST_TOKENS = 100_000  # of a text of some thousand characters
MOST_SPECIAL = 10_000  # transformers takes minutes to add more
SPECIAL = ("extra_special_tokens", "additional_special_tokens")
TEXT = (
    "USER: What is the color of the small object on the left?\nASSISTANT:  \t é 你好 🙂 "
    + string.printable
    + " ".join(f"{sign * 40}!" for sign in string.ascii_letters + string.digits)
)
# An ordinary error is left to whoever loads or uses the tokenizer; ``sys.path`` may begin with the working folder.
_CODE = """
import sys
sys.path[:] = [x for x in sys.path if x]
try:
    import resource
    for kind, most in ((resource.RLIMIT_CPU, int(sys.argv[2])), (resource.RLIMIT_AS, int(sys.argv[3]))):
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
from tokenizers import Tokenizer
try:
    count = len(Tokenizer.from_file(sys.argv[1]).encode(sys.stdin.buffer.read().decode()).ids)
except MemoryError:
    sys.exit(3)
except Exception:
    sys.exit(0)
except BaseException:
    sys.exit(3)
sys.exit(3 if count > int(sys.argv[4]) else 0)
"""


def check_tokenizer(tokenizer: Path, title: str) -> None:
    """Refuse a ``tokenizer.json`` that cannot read a page of plain text in bounded time and memory.

    Raises:
        SparseSightError: it takes more than 10 s or 4 GiB, gives up, or makes too many tokens.
    """
    if not tokenizer.is_file() or not sys.executable:
        return
    numbers = [str(number) for number in (SECONDS, MEMORY, MOST_TOKENS)]
    try:
        ended = subprocess.run(  # nosec B603
            [sys.executable, "-c", _CODE, str(tokenizer), *numbers],
            input=TEXT.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=6 * SECONDS,  # on a busy machine
        ).returncode
    except subprocess.TimeoutExpired:
        ended = 3
    if ended == 3 or ended < 0:
        raise SparseSightError(
            f"{title}: its tokenizer cannot read a page of plain text within {SECONDS} s, {MEMORY >> 30} GiB and "
            f"{MOST_TOKENS:,} tokens: correct the patterns, replacements and padding of its tokenizer.json"
        )


def check_special_tokens(config: Path, title: str) -> None:
    """Refuse a ``tokenizer_config.json`` with more special tokens than can be added.

    Raises:
        SparseSightError: naming how many there are.
    """
    if not config.is_file():
        return
    try:
        found = read_json(config, dict)
    except SparseSightError as error:
        raise SparseSightError(f"{title} cannot be loaded: {error}") from None
    for name in SPECIAL:
        value = found.get(name)
        if isinstance(value, list | dict) and len(value) > MOST_SPECIAL:
            raise SparseSightError(
                f"{title}: its {config.name} has {len(value):,} {name}, more than the limit of {MOST_SPECIAL:,}: "
                "correct it"
            )
