"""Evaluation through lmms-eval: the model it runs, the published benchmarks, and what lmms-eval lacks.

Needs the extra: ``pip install sparsesight[eval]``.
"""
