"""The web page of ``sparsesight demo``: :mod:`.engine` and :mod:`.running` do the work, without Gradio; :mod:`.page`
is what is seen, :mod:`.server` what serves it."""
