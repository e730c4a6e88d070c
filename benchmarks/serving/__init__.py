"""What the benchmarks of the vLLM plugin share: engines side by side, requests to them, and the arithmetic."""
