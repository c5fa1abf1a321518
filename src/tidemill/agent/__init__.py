"""The node's own process: one per node, child of nobody, outlives the server.

Started as `python -I -S …/agent/main.py NODE_DIR`. Everything here and in `tidemill.sandbox` uses the
standard library alone and imports nothing else of ours, so an agent starts in tens of milliseconds and holds
~10 MB.
"""
