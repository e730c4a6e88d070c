"""The transformers integration: hooks, an attention probe and pruned cache layers; no copied forward, no patch."""
