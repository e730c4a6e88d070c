"""The vLLM plugin. Importing this package imports no vLLM; vLLM itself loads :func:`.plugin.register`."""
