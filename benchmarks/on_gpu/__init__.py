"""What `make bench-gpu` measures, checks and writes (benchmarks/gpu.py)."""
