"""Reads a prompt: where its visual tokens, frames, turns and answers are."""
