"""A job's inputs and outputs, resolved at submit: addresses become places in the workspace's storage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidemill.app.assets.locations import Location, Storage, datastore_location, locate
from tidemill.app.assets.storage import BLOB_STORE
from tidemill.app.rows.asset_rows import DATA, MODELS
from tidemill.app.services import Services
from tidemill.data.staging import EVALUATED, FOLDER_TYPES
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered
from tidemill.domain.jobspec import MODEL_TYPES, JobInput, JobOutput
from tidemill.domain.model import Scope
from tidemill.domain.plan import Place, PlannedInput, PlannedOutput
from tidemill.store.api import Read

_NAMED = 8  # names listed when an input does not exist


def resolve_input(s: Services, read: Read, scope: Scope, account: str, item: JobInput) -> PlannedInput:
    """Raises NotFound (naming what exists), InvalidRequest, NotOffered or Conflict, with the input's name."""
    if item.type == "literal":
        return PlannedInput(item.name, item.type, item.mode, item.value, literal=item.value)
    if item.mode in EVALUATED:
        raise NotOffered(
            f"Input {item.name!r} has mode {item.mode!r}, which Tidemill does not offer. "
            "Use ro_mount or download.",
            f"properties.inputs.{item.name}.mode",
        )
    kind = MODELS if item.type in MODEL_TYPES else DATA
    found = locate(read, _storage(s, scope, account), item.value, kind)
    if found.url and item.type in FOLDER_TYPES and item.mode != "direct":
        raise InvalidRequest(
            f"Input {item.name!r} is a {item.type} at {found.url}: a web address holds one file. "
            "Use type uri_file, or mode direct.",
            target=f"properties.inputs.{item.name}",
        )
    return PlannedInput(
        item.name,
        item.type,
        item.mode,
        item.value,
        place=_as_type(found.place, item.type),
        url=found.url,
        uri=found.uri or found.url,
    )


def resolve_output(
    s: Services, read: Read, scope: Scope, account: str, job: str, item: JobOutput
) -> PlannedOutput:
    """The default place is `azureml/{job}/{output}/` of the workspace's blob store.
    Raises like resolve_input."""
    storage = _storage(s, scope, account)
    found = _output_location(read, storage, job, item)
    if found.place is None or found.place.account != account:
        raise InvalidRequest(
            f"Output {item.name!r} cannot be written to {item.uri!r}. Use azureml://datastores/NAME/paths/PATH.",
            target=f"properties.outputs.{item.name}.uri",
        )
    place = _as_type(found.place, item.type)
    assert place is not None
    return PlannedOutput(
        item.name, item.type, item.mode, place, found.uri, item.asset_name, item.asset_version
    )


async def check_inputs_exist(s: Services, inputs: Sequence[PlannedInput]) -> None:
    """Raises NotFound for an input of ours with nothing stored there, naming what lies beside it."""
    await asyncio.to_thread(lambda: [_check(s, item) for item in inputs if item.place is not None])


def _check(s: Services, item: PlannedInput) -> None:
    place = item.place
    assert place is not None
    if s.blobs.container(place.account, place.container) is None:
        names = ", ".join(c.name for c in s.blobs.containers(place.account))
        raise _missing(item, f"there is no container {place.container!r}; there are: {names}.")
    path = place.path.rstrip("/")  # a folder's ends in a slash; a file of that name may lie there
    exact = bool(path) and s.blobs.get(place.account, place.container, path) is not None
    if exact and item.type not in FOLDER_TYPES:
        return
    folder = f"{path}/" if path else ""
    if item.may_be_empty and item.type in FOLDER_TYPES:
        return
    below = bool(s.blobs.list(place.account, place.container, folder, limit=1).blobs)
    if below and item.type != "uri_file":
        return
    if below:
        raise _missing(item, "it is a folder. Use type uri_folder.")
    if exact:
        raise _missing(item, "it is a file. Use type uri_file.")
    parent = path.rpartition("/")[0]
    page = s.blobs.list(place.account, place.container, f"{parent}/" if parent else "", "/", limit=_NAMED)
    names = [blob.name for blob in page.blobs] + list(page.prefixes)
    beside = f" Beside it: {', '.join(names)}." if names else ""
    raise _missing(item, f"nothing is stored at {place.container}/{path}.{beside}")


def _missing(item: PlannedInput, why: str) -> NotFound:
    return NotFound(
        f"Input {item.name!r} ({item.given}): {why}", "InputNotFound", f"properties.inputs.{item.name}"
    )


def _output_location(read: Read, storage: Storage, job: str, item: JobOutput) -> Location:
    if item.uri:
        return locate(read, storage, _filled(item.uri, job, item.name))
    path = f"azureml/{job}/{item.name}/"
    if item.type == "uri_file":
        path += item.name
    return datastore_location(read, storage, BLOB_STORE, path)


def _filled(uri: str, job: str, output: str) -> str:
    """Azure's placeholders in an output's address."""
    values = {"name": job, "output_name": output, "default_datastore": BLOB_STORE}
    for name, value in values.items():
        uri = uri.replace("${{" + name + "}}", value)
    return uri


def _as_type(place: Place | None, kind: str) -> Place | None:
    """A folder's path ends in a slash, so that `x` does not take in `xy`."""
    if place is None or kind not in FOLDER_TYPES or not place.path or place.path.endswith("/"):
        return place
    return Place(place.account, place.container, place.path + "/")


def _storage(s: Services, scope: Scope, account: str) -> Storage:
    return Storage(scope, account, s.addresses.data_netloc)
