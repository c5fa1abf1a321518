"""The flavors of an `mlflow_model`: what its file `MLmodel` says, kept in the version's row once it was read.

A model is registered in a commit (that of a job's end, too) that reads no files; so they are read when the
version is first shown.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from tidemill.app.assets.assets import save
from tidemill.app.assets.model_sources import read_mlmodel
from tidemill.app.rows.asset_rows import MODELS
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.data import plain_yaml
from tidemill.domain.model import Resource
from tidemill.store.api import Tx

MLFLOW_MODEL = "mlflow_model"
_MAX_BYTES = 1024 * 1024  # of an MLmodel file: it is a few lines about a model


class _MLmodel(msgspec.Struct):
    flavors: dict[str, dict[str, Any]] = {}


class _Column(msgspec.Struct):
    """MLflow's schemas: of a table `name` and `type`; of a tensor `tensor-spec`."""

    type: Any = ""
    name: str | int = ""
    tensor: dict[str, Any] = msgspec.field(name="tensor-spec", default_factory=dict[str, Any])
    required: bool = True


class _Signature(msgspec.Struct):
    """Texts of JSON, each a list of columns."""

    inputs: str | None = None
    outputs: str | None = None
    params: str | None = None


class _Signed(msgspec.Struct):
    signature: _Signature | None = None


async def with_flavors(s: Services, row: Resource) -> Resource:
    """The version of a model with its flavors. Left alone: one that has them, is none of MLflow's, or whose
    MLmodel is missing or no YAML."""
    spec = decode_object(row.spec)
    if row.key.type != MODELS.versions or spec.get("modelType") != MLFLOW_MODEL or spec.get("flavors"):
        return row
    raw = await read_mlmodel(s, row.key.scope, str(spec["modelUri"]))
    flavors = await asyncio.to_thread(read_flavors, raw) if raw and len(raw) <= _MAX_BYTES else {}
    if not flavors:
        return row
    now = s.clock.now()

    def keep(tx: Tx) -> Resource:
        held = tx.by_uid(row.uid)
        if held is None:
            return row
        return save(tx, held, {**decode_object(held.spec), "flavors": flavors}, now)

    return await s.store.write(keep)


def read_flavors(raw: bytes) -> dict[str, Any]:
    """What an MLmodel file says, in ARM's shape: `{flavor: {"data": {name: text}}}`; else {}."""
    try:
        document = msgspec.convert(plain_yaml.load(raw), _MLmodel)
    except (ValueError, msgspec.ValidationError):
        return {}
    return {
        name: {"data": {key: _text(value) for key, value in data.items()}}
        for name, data in document.flavors.items()
    }


def read_signature(raw: bytes) -> dict[str, list[dict[str, str]]]:
    """`{"inputs" | "outputs" | "params": [{"name", "type"}]}` of an MLmodel file; {} where it has none."""
    try:
        found = msgspec.convert(plain_yaml.load(raw), _Signed).signature or _Signature()
        given = {"inputs": found.inputs, "outputs": found.outputs, "params": found.params}
        return {
            part: [_column(one) for one in msgspec.json.decode(text, type=list[_Column])]
            for part, text in given.items()
            if text
        }
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return {}


def _column(one: _Column) -> dict[str, str]:
    kind = _text(one.type)
    if one.tensor:
        kind = f"{one.tensor.get('dtype', 'tensor')} {_text(one.tensor.get('shape', []))}"
    return {"name": str(one.name), "type": kind if one.required else f"{kind}, optional"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
