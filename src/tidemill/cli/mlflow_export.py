"""Writes runs and models as a file store of MLflow (`mlruns`), which its own server opens or migrates.

    {experiment_id}/meta.yaml, tags/{key}
    {experiment_id}/{run_id}/meta.yaml, params/{key}, tags/{key}, metrics/{key}, artifacts/…
    models/{name}/meta.yaml, tags/{key}, aliases/{alias}
    models/{name}/version-{n}/meta.yaml, tags/{key}, files/…

A metric is a file of lines "timestamp value step"; params and tags are files of their value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

_STATUS = {"RUNNING": 1, "SCHEDULED": 2, "FINISHED": 3, "FAILED": 4, "KILLED": 5}  # numbers of MLflow
_LOCAL = 4  # source type
_VERSION = (
    "name version creation_timestamp last_updated_timestamp current_stage description run_id run_link status "
    "user_id"
)


class FileStore:
    """`root` is a new folder. `skipped` is told what a file store cannot hold."""

    def __init__(self, root: Path, skipped: Callable[[str], None]) -> None:
        self.root = root.absolute()
        self._skipped = skipped
        (self.root / "models").mkdir(parents=True)
        (self.root / ".trash").mkdir()

    def experiment(self, held: Mapping[str, Any]) -> None:
        folder = self.root / _one(held["experiment_id"])
        names = ("experiment_id", "name", "lifecycle_stage", "creation_time", "last_update_time")
        meta = {name: held.get(name) for name in names}
        _write_meta(folder, {**meta, "artifact_location": folder.as_uri()})
        self._files(folder / "tags", _pairs(held.get("tags")))

    def run(self, held: Mapping[str, Any], history: Callable[[str], Iterable[Mapping[str, Any]]]) -> Path:
        """-> the folder of its artifacts. `history`: the points of one of its metrics."""
        info, data = held["info"], held.get("data") or {}
        folder = self.root / _one(info["experiment_id"]) / _one(info["run_id"])
        names = (
            "experiment_id",
            "run_id",
            "run_name",
            "user_id",
            "start_time",
            "end_time",
            "lifecycle_stage",
        )
        meta: dict[str, Any] = {name: info.get(name) for name in names}
        meta |= {
            "run_uuid": info["run_id"],
            "status": _STATUS.get(info.get("status", ""), 1),
            "artifact_uri": (folder / "artifacts").as_uri(),
            "deleted_time": None,
            "tags": [],
            "source_type": _LOCAL,
            "source_name": "",
            "source_version": "",
            "entry_point_name": "",
        }
        _write_meta(folder, meta)
        for kind in ("metrics", "artifacts"):
            (folder / kind).mkdir()
        self._files(folder / "params", _pairs(data.get("params")))
        self._files(folder / "tags", _pairs(data.get("tags")))
        for metric in data.get("metrics") or ():
            lines = (f"{p['timestamp']} {p['value']} {p['step']}\n" for p in history(metric["key"]))
            self._file(folder / "metrics", metric["key"], lines)
        return folder / "artifacts"

    def model(self, held: Mapping[str, Any]) -> None:
        folder = self.root / "models" / _one(held["name"])
        names = ("name", "creation_timestamp", "last_updated_timestamp", "description")
        _write_meta(folder, {name: held.get(name) for name in names})
        self._files(folder / "tags", _pairs(held.get("tags")))
        aliases = {alias["alias"]: alias["version"] for alias in held.get("aliases") or ()}
        self._files(folder / "aliases", aliases)

    def version(self, held: Mapping[str, Any]) -> Path | None:
        """-> the folder of its files; None where MLflow cannot number it."""
        if not held["version"].isdigit():
            self._skipped(f"Model {held['name']}:{held['version']}: MLflow's versions are numbers.")
            return None
        folder = self.root / "models" / _one(held["name"]) / f"version-{int(held['version'])}"
        files = folder / "files"
        meta = {name: held.get(name) for name in _VERSION.split()}
        meta |= {"source": files.as_uri(), "storage_location": files.as_uri(), "status_message": None}
        _write_meta(folder, meta)
        files.mkdir()
        self._files(folder / "tags", _pairs(held.get("tags")))
        return files

    def place(self, folder: Path, path: str) -> Path | None:
        """Where a file of that path goes; None, and it is told, where it would leave the folder."""
        if not _inside(path):
            self._skipped(f"{path!r} is no name for a file.")
            return None
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            self._skipped(f"{path!r}: a part of it is a file already.")
            return None
        return target

    def _files(self, folder: Path, values: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in values.items():
            self._file(folder, key, (value,))

    def _file(self, folder: Path, key: str, pieces: Iterable[str]) -> None:
        target = self.place(folder, key)
        if target is None:
            return
        try:
            with target.open("w", encoding="utf-8", newline="") as file:
                file.writelines(pieces)
        except IsADirectoryError:
            self._skipped(f"{key!r}: a folder has that name already.")


def _pairs(values: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in values or ()}


def _inside(path: str) -> bool:
    """Whether it is a name below the folder it is put in: a server's answer must not write elsewhere."""
    parts = PurePosixPath(path).parts
    unsafe = path.startswith("/") or ".." in parts or "\0" in path or "\\" in path
    return bool(parts) and not unsafe and all(len(part.encode()) <= 255 for part in parts)


def _one(name: str) -> str:
    """A name that is one folder."""
    if not _inside(name) or "/" in name:
        raise ValueError(f"{name!r} is no name for a folder")
    return name


def _write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    import yaml

    folder.mkdir(parents=True)
    text = yaml.safe_dump(dict(meta), default_flow_style=False, allow_unicode=True)
    (folder / "meta.yaml").write_text(text, encoding="utf-8")
