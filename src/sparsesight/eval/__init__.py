"""What a method costs in accuracy: benchmarks, sweeps of methods and budgets over them, and honest statistics.

`statistics.py` and `metrics.py` are pure; `samples.py` says what a benchmark is; `folder.py` is a sweep on disk;
`sweep.py` fills it; `summary.py`, `tables.py` and `plot.py` say what came out.
"""
