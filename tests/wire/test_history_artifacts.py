"""A run's files by the addresses that run history gives: written, listed and read without a token."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

import pytest


@pytest.fixture(scope="module")
def token(server) -> str:
    endpoint = urlsplit(server.env["IDENTITY_ENDPOINT"])
    connection = http.client.HTTPConnection(endpoint.netloc, timeout=60)
    query = "api-version=2019-08-01&resource=https://management.azure.com/"
    connection.request(
        "GET", f"{endpoint.path}?{query}", headers={"X-IDENTITY-HEADER": server.env["IDENTITY_HEADER"]}
    )
    return json.loads(connection.getresponse().read())["access_token"]


def call(server, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(server.state["addresses"]["http"]).netloc, timeout=60)
    raw = None if body is None else json.dumps(body)
    connection.request(method, path, raw, {"Authorization": f"Bearer {token}"})
    reply = connection.getresponse()
    data = reply.read()
    return reply.status, json.loads(data) if data else None


def blob(server, method: str, address: str, body: bytes | None = None) -> tuple[int, bytes]:
    parts = urlsplit(address)
    context = ssl.create_default_context(cafile=server.env["REQUESTS_CA_BUNDLE"])
    connection = http.client.HTTPSConnection(parts.netloc, timeout=60, context=context)
    connection.request(method, f"{parts.path}?{parts.query}", body, {"x-ms-blob-type": "BlockBlob"})
    reply = connection.getresponse()
    return reply.status, reply.read()


def test_files_go_through_signed_addresses(server, token):
    job = f"{server.workspace_id}/jobs/files"
    status, _ = call(server, token, "PUT", job, {"properties": {"jobType": "Command", "command": "true"}})
    assert status == 201
    base = f"/history/v1.0{server.workspace_id}/experiments/Default/runs/files/artifacts"
    status, given = call(
        server,
        token,
        "POST",
        f"{base}/batch/metadata",
        {"paths": [{"path": "plots/a.txt"}, {"path": "b.txt"}]},
    )
    assert status == 200
    address = given["artifactContentInformation"]["plots/a.txt"]["contentUri"]
    assert blob(server, "PUT", address, b"hello")[0] == 201
    # The signature is for that one file: nowhere else can it be written with.
    assert blob(server, "PUT", address.replace("a.txt", "c.txt"), b"no")[0] == 403
    status, listed = call(server, token, "GET", f"{base}?path=plots")
    assert [item["path"] for item in listed["value"]] == ["plots/a.txt"]
    status, found = call(server, token, "GET", f"{base}/contentinfo?path=plots/a.txt")
    assert blob(server, "GET", found["contentUri"]) == (200, b"hello")
    assert blob(server, "PUT", found["contentUri"], b"no")[0] == 403
    status, refused = call(server, token, "GET", f"{base}/contentinfo?path=absent.txt")
    assert (status, refused["error"]["target"]) == (404, "ExperimentRun/dcid.files/absent.txt")


@pytest.mark.parametrize("body", [{}, {"paths": []}, {"paths": ["x"]}, {"paths": [{"path": "../up"}]}])
def test_what_is_no_list_of_paths_is_refused(server, token, body):
    base = f"/history/v1.0{server.workspace_id}/experiments/Default/runs/files/artifacts"
    status, refused = call(server, token, "POST", f"{base}/batch/metadata", body)
    assert status == 400
    assert "path" in refused["error"]["message"].lower()
