"""Thousands of mixed requests to a server that prunes. `vllm_soak.py` runs them.

pool.py         the requests: those that have an answer, those that must be refused, those that are given up
server.py       a server in a process of its own, and what can be seen of it from outside
worker_state.py what the server's worker tells of the plugin's state
journal.py      the rounds so far, in a file
asking.py       a request's outcome, and whether it is the right one
"""
