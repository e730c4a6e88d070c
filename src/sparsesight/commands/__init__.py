"""The subcommands of ``sparsesight``, one file each. What takes seconds to import is imported when a command runs."""
