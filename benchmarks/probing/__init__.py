"""Probes of the bundled model: its knowledge, what it looks at, and the cost of pruning at each depth.

`probe_bundled.py` runs them. A part is a module with `run`, which returns JSON-ready numbers, `markdown`, which makes
tables of these, and `plot`, which draws them.

    accuracy.py     exact answers on every evaluation split
    controls.py     the same without the picture that the question is about
    depth.py        pruning once, at each depth, to each budget, by each scorer
    raters.py       which words of a question judge the picture
    answering.py    prompts in, greedy answers out
    scorers.py      what visual tokens are kept by
    saliency.py     contrast of patches, blind to the question
    intervals.py    shares and differences with bootstrap intervals
    store.py        the JSON file, so that a stopped run goes on where it was
    presenting.py   Markdown tables, bars, colours
"""
