"""A shape that takes milliseconds."""

SMALL = "layers=4,hidden=64,ffn=96,visual=36,text=12"
