"""The outputs of a parallel_for, put together: a folder with a part for each item, and an MLTable that names
them. Files get a second name, not a copy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from tidemill.app.assets.locations import Storage, datastore_location
from tidemill.app.assets.storage import BLOB_STORE
from tidemill.app.services import Services
from tidemill.data.blobmodel import BlobProperties
from tidemill.domain.model import Resource
from tidemill.domain.pipelines.deciding import Gather
from tidemill.domain.plan import Place, PlannedOutput


async def gather(
    s: Services, parent: Resource, account: str, action: Gather, planned: Mapping[str, PlannedOutput]
) -> PlannedOutput:
    """Doing it again changes nothing."""
    storage = Storage(parent.key.scope, account, s.addresses.data_netloc)
    path = f"azureml/{parent.key.name}/{action.step}.{action.output}/"
    found = await s.store.read(lambda r: datastore_location(r, storage, BLOB_STORE, path))
    assert found.place is not None
    target = found.place
    sources = [(key, planned[uri]) for key, uri in action.parts if uri in planned]
    await asyncio.to_thread(_link, s, target, sources)
    return PlannedOutput(action.output, "mltable", "rw_mount", target, found.uri)


def _link(s: Services, target: Place, sources: list[tuple[str, PlannedOutput]]) -> None:
    lines: list[str] = []
    for key, output in sources:
        place = output.place
        single = output.type == "uri_file"
        marker = ""
        while True:
            page = s.blobs.list(place.account, place.container, place.path, marker=marker)
            for blob in page.blobs:
                name = blob.name.rpartition("/")[2] if single else blob.name[len(place.path) :]
                properties = BlobProperties(blob.content_type, blob.metadata, blob.headers, blob.md5)
                s.blobs.copy_blob(
                    blob, target.account, target.container, f"{target.path}{key}/{name}", properties
                )
            marker = page.next_marker
            if not marker:
                break
        file = place.path.rpartition("/")[2]
        lines.append(
            f"  - {'file' if single else 'folder'}: {json.dumps(f'./{key}/{file}' if single else f'./{key}')}"
        )
    text = "$schema: https://azuremlschemas.azureedge.net/latest/MLTable.schema.json\ntype: mltable\npaths:\n"
    body = (text + "\n".join(lines) + "\n").encode()
    s.blobs.put_bytes(target.account, target.container, f"{target.path}MLTable", body)
