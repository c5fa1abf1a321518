"""The TCP connections of a process's network, as its kernel lists them."""

from __future__ import annotations

from pathlib import Path

ESTABLISHED = "01"


def connected(pid: int) -> bool:
    """Whether any is established in the network that this process is in."""
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:  # it has ended
            continue
        if any(row.split()[3] == ESTABLISHED for row in rows):
            return True
    return False
