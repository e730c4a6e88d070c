"""What a method costs in accuracy: sweeps of methods and budgets over benchmarks, and honest statistics.

`statistics.py` and `metrics.py` are pure; `samples.py` says what a benchmark is; `folder.py` is a sweep on disk;
`sweep.py` fills it; `summary.py`, `tables.py` and `plot.py` say what came out. The published benchmarks run through
lmms-eval (`model.py`, `tasks.py`), which comes with the extra: ``pip install sparsesight[eval]``.
"""
