"""Every family of vision-language models as a tiny random model, for the test matrix and the README's table.

Only the families in `ALL` have passed the whole matrix; builders of the other modules pass their dense checks and wait
for theirs.
"""

from . import llava_like

ALL = (*llava_like.FAMILIES,)
