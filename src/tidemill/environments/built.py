"""What is known of a built environment, and its marker file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

META = ".tidemill"
_MARKER = "built.json"


@dataclass(frozen=True, slots=True)
class BuiltEnvironment:
    """`path` is a virtual environment, read-only; it needs `base_prefix` (the interpreter's tree) to run.

    `cached`: it was there before. `notes`: what is used instead of what was asked.
    """

    digest: str
    path: Path
    python: Path
    bin_dir: Path
    base_prefix: Path
    cached: bool
    notes: tuple[str, ...] = ()
    lock_text: str = ""
    python_version: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """The marker of a built environment: it is written last. `size` in bytes, `built_at` in microseconds."""

    digest: str
    python_version: str
    base_prefix: str
    lock_text: str = ""
    notes: tuple[str, ...] = ()
    substituted: bool = False  # another Python version than the one asked for
    built_at: int = 0
    seconds: float = 0.0
    size: int = 0
    image: str = ""  # digest of the image that it was built in, and runs in

    @property
    def packages(self) -> tuple[str, ...]:
        """`name==version` of everything installed."""
        lines = (line.split(" ")[0] for line in self.lock_text.splitlines())
        return tuple(line for line in lines if line and line[0].isalnum())


def write_record(directory: Path, record: EnvironmentRecord) -> None:
    path = directory / META / _MARKER
    path.write_text(json.dumps(asdict(record), indent=1) + "\n", "utf-8")
    os.chmod(path, 0o444)


def read_record(directory: Path) -> EnvironmentRecord | None:
    """None when there is no marker: the environment is not built."""
    path = directory / META / _MARKER
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return None
    return _read(path, stamp)


@lru_cache(maxsize=256)
def _read(path: Path, stamp: int) -> EnvironmentRecord:
    values = json.loads(path.read_text("utf-8"))
    return EnvironmentRecord(**{**values, "notes": tuple(values["notes"])})
