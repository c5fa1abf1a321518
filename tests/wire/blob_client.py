"""What the tests of the blob protocol share: both backends, the unmodified client, and what it says."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Iterator

import pytest
from azure.core.exceptions import (
    HttpResponseError,
)
from azure.storage.blob import (
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    generate_blob_sas,
)
from blob_backends import (
    ACCOUNT,
    Backend,
    Unavailable,
    azurite,
    tidemill,
)

MIB = 1 << 20
SIGNED_NAME = f"{ACCOUNT}.blob.core.windows.net"


@pytest.fixture(scope="module", params=["tidemill", pytest.param("azurite", marks=pytest.mark.azurite)])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    start = tidemill if request.param == "tidemill" else azurite
    try:
        with start(tmp_path_factory.mktemp(request.param)) as running:
            yield running
    except Unavailable as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture
def ours(backend: Backend) -> Backend:
    if backend.name != "tidemill":
        pytest.skip("only Tidemill does this")
    return backend


def client_of(backend: Backend, credential: object = "", url: str = "", **more: object) -> BlobServiceClient:
    return BlobServiceClient(
        url or backend.url,
        credential=backend.key if credential == "" else credential,
        connection_verify=backend.ca,
        retry_total=0,
        **more,
    )


@pytest.fixture
def service(backend: Backend) -> Iterator[BlobServiceClient]:
    with client_of(backend, max_single_put_size=2 * MIB, max_block_size=MIB) as client:
        yield client


@pytest.fixture
def container(service: BlobServiceClient) -> ContainerClient:
    return service.create_container(f"c-{uuid.uuid4().hex[:12]}")


def code(error: pytest.ExceptionInfo[HttpResponseError]) -> str:
    found = getattr(error.value, "error_code", "")
    return str(getattr(found, "value", found))


def refused(backend: Backend, error: pytest.ExceptionInfo[HttpResponseError]) -> bool:
    """403 because the request proves nothing. Azurite has another code for it than Azure."""
    wanted = "AuthenticationFailed" if backend.name == "tidemill" else "AuthorizationFailure"
    return (error.value.status_code, code(error)) == (403, wanted)


def hours(count: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(hours=count)


def names(container: ContainerClient, **query: object) -> list[str]:
    return [item.name for item in container.list_blobs(**query)]


def blob_sas(backend: Backend, container: str, name: str, **more: object) -> str:
    said: dict[str, object] = {
        "account_name": SIGNED_NAME,
        "account_key": backend.key,
        "permission": BlobSasPermissions(read=True),
        "expiry": hours(1),
    }
    return generate_blob_sas(container_name=container, blob_name=name, **(said | more))


def blob_with(backend: Backend, container: str, name: str, sas: str) -> BlobClient:
    return client_of(backend, credential=sas).get_blob_client(container, name)
