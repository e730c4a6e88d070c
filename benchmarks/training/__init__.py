"""How the bundled model is made: what `benchmarks/train_bundled.py` runs."""
