"""``python -m sparsesight``, and what launchers of several processes start."""

from .cli import main

main()
