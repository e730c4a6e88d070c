"""The plugin's state in a vLLM worker. The server is started with ``--worker-extension-cls``."""

from __future__ import annotations

from typing import Any


class WorkerState:
    """Methods that vLLM adds to its worker."""

    model_runner: Any

    def sparsesight_state(self) -> dict[str, Any]:
        """Counts since the start, and sizes of what the plugin and the runner remember of requests."""
        from dataclasses import asdict

        from sparsesight.vllm.runner import pruner_of

        pruner = pruner_of(self.model_runner.get_model())
        assert pruner is not None
        return {
            **asdict(pruner.tally),
            "in_a_step": pruner.active is not None or not pruner.told,
            "requests": len(self.model_runner.requests),
        }
