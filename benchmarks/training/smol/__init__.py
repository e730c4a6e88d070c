"""How eyes are put on SmolLM2: what `benchmarks/train_smol.py` runs."""
