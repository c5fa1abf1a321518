"""The scoring server: a model or an entry script (`init()`, `run()`) behind HTTP, as on Azure.

It runs inside the user's environment, with its Python (3.8 or later): only the standard library is needed,
and nothing else of ours is imported. Started as `python …/scoring/main.py`, told everything by environment
variables (settings.py).

One supervisor accepts connections, answers health checks, and hands every other connection as a descriptor
to one of its workers, keeping a copy: so no request pays for a hop, a health check is answered while run()
runs, and the caller of a worker that died is still told.
"""
