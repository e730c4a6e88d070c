"""Contestants of ``benchmarks/peers.py``, each in a process and an environment of its own."""
