"""The first rows of a parquet file, read in a process of its own:
`python parquet_rows.py DESCRIPTOR ROWS COLUMNS CHARACTERS`.

Run by its file, with pyarrow and the standard library alone. A file may say anything of itself, so memory and
processor time are bounded before it is opened; nothing can be written. JSON to standard output:
`{"columns": [name], "rows": [[text or value]], "more": there are further rows, "wider": columns left out}`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from typing import Any

MEMORY = 4 << 30  # bytes of addresses: pyarrow's own libraries and its allocator's arenas take most of it
SECONDS = 5  # of a processor


def main() -> None:
    descriptor, most, widest, longest = map(int, sys.argv[1:5])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    pyarrow.set_cpu_count(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with os.fdopen(descriptor, "rb") as file:
        opened = parquet.ParquetFile(file)
        names = opened.schema_arrow.names
        shown = names[:widest]
        rows: list[list[Any]] = []
        for batch in opened.iter_batches(batch_size=most + 1, columns=shown, use_threads=False):
            rows += [[_short(row[name], longest) for name in shown] for row in batch.to_pylist()]
            if len(rows) > most:
                break
    found = {
        "columns": [_short(name, longest) for name in shown],
        "rows": rows[:most],
        "more": len(rows) > most,
        "wider": len(names) - len(shown),
    }
    os.write(1, json.dumps(found).encode())


def _short(value: Any, longest: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return (value if isinstance(value, str) else json.dumps(value, default=str))[: longest + 1]


if __name__ == "__main__":
    main()
