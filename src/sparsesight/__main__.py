"""``python -m sparsesight``, and what launchers of several processes start."""

from .commands.cli import main

main()
