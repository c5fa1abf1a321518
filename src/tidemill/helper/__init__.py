"""What takes root on a host, for a server that has none: it makes, shows and ends the nodes of one home.

`nodes.py` does it, with the rights of whoever runs it: in the helper's own process, or in a server that
drops nothing. Like the agent it loads the standard library, `agent/` and `sandbox/` alone.
"""
