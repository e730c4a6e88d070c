"""Evaluation: the accuracy of methods and budgets on benchmarks, with confidence intervals and paired tests.

`task.py` defines a task, `records.py` its questions and samples; `sweep.py` runs every method on every task into a run
folder (`run_dir.py`, `cell_file.py`); `metrics.py` and `statistics.py` are pure; `summary.py`, `tables.py` and
`plot.py` make the report. The published benchmarks run
through lmms-eval (`lmms/`), which the extra ``sparsesight[eval]`` installs.
"""
