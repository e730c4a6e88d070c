"""The transformers integration: hooks, an attention probe and pruned cache layers. No class is patched."""
