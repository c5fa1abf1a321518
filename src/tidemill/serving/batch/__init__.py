"""Batches: an entry script's `init()`, `run(mini_batch)` and `shutdown()` over files or a table.

Runs inside the user's environment with its Python (3.8 or newer), so it imports nothing of ours but itself,
and pandas only where a table is read or a result is a DataFrame. Started by file (main.py) with a frozen spec
(spec.py). One process a node holds its workers (node.py); that of rank 0 also hands the batches out
(coordinator.py, board.py) and stores what is finished (ledger.py) before it counts.
"""
