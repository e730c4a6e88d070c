"""Shared by the benchmarks of the vLLM plugin: engines side by side, requests, and statistics."""
