"""What batches are made of and how they are run: the file that a node is started with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

VERSION = 1


class Refused(Exception):
    """What the user can mend, as a sentence."""


@dataclass(frozen=True)
class Spec:
    """`script`: a path; `arguments`: as a command line has them. `input`: the folder or file. `table`: what
    its file MLTable says, None for plain files. `size`: files of a batch, or bytes of a table's; None: 10
    files, 1 MiB. `retries`: beyond the first try. Thresholds: -1 allows any number. `append_to`: the file
    that gets what run() returns, "" for none."""

    script: str
    input: str
    arguments: str = ""
    table: dict[str, Any] | None = None
    size: int | None = None
    partition_keys: tuple[str, ...] = ()
    concurrency: int = 1
    retries: int = 2
    timeout_s: float = 60.0
    batch_errors: int = -1
    item_errors: int = -1
    failed_percent: float | None = None
    append_to: str = ""
    logging_level: str = "INFO"


def read(path: str) -> Spec:
    with open(path, encoding="utf-8") as file:
        raw = json.load(file)
    if raw.pop("version") != VERSION:
        raise Refused(f"The file {path} is of another version of Tidemill.")
    raw["partition_keys"] = tuple(raw.get("partition_keys") or ())
    return Spec(**raw)
