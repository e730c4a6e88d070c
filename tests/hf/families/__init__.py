"""Every family of vision-language models as a tiny random model, for the test matrix and the README's table."""

from . import llava_like

ALL = (*llava_like.FAMILIES,)
