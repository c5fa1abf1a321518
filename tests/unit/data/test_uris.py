"""Every form of an address, read and written back."""

from __future__ import annotations

import pytest

from tidemill.data.uris import (
    AssetId,
    AssetName,
    BlobUrl,
    DatastoreUri,
    JobOutputUri,
    LocalPath,
    OtherUrl,
    RegistryUri,
    WebUrl,
    parse_uri,
    render_uri,
)
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Scope

NETLOC = "localhost:8445"
W = Scope("s", "g", "w")
LONG = "azureml://subscriptions/s/resourcegroups/g/workspaces/w"

FORMS = [
    ("azureml:digits:3", AssetName("digits", version="3")),
    ("azureml:digits@latest", AssetName("digits", label="latest")),
    (f"{W.arm_id}/data/d/versions/1", AssetId(W, "data", "d", "1")),
    (f"azureml:{W.arm_id}/models/m/versions/2", AssetId(W, "models", "m", "2")),
    (f"{LONG}/data/d/versions/1", AssetId(W, "data", "d", "1")),
    (f"{W.arm_id}/data/azureml:d/versions/1", AssetId(W, "data", "d", "1")),
    ("azureml://data/d/versions/1", AssetId(None, "data", "d", "1")),
    ("azureml://locations/eu/workspaces/0f/data/d/versions/1", AssetId(None, "data", "d", "1")),
    (
        "azureml://registries/r/environments/e/labels/latest",
        RegistryUri("r", "environments", "e", "", "latest"),
    ),
    ("azureml://datastores/ds/paths/a/b c.csv", DatastoreUri("ds", "a/b c.csv")),
    ("azureml://datastores/ds/paths/a/", DatastoreUri("ds", "a/")),
    ("azureml://datastores/ds/paths/", DatastoreUri("ds", "")),
    ("azureml://datastores/ds/paths", DatastoreUri("ds", "")),
    ("azureml://datastores/ds/ExperimentRun/dcid.j", DatastoreUri("ds", "ExperimentRun/dcid.j")),
    (f"{LONG}/datastores/ds/paths/a/b", DatastoreUri("ds", "a/b", W)),
    (f"{LONG}/datastores/ds/paths/azureml/datastores/x", DatastoreUri("ds", "azureml/datastores/x", W)),
    (
        "azureml:/subscriptions/s/resourceGroups/g/workspaces/w/datastores/ds/paths/a",
        DatastoreUri("ds", "a", W),
    ),
    ("azureml://jobs/j/outputs/o", JobOutputUri("j", "o")),
    ("azureml://jobs/j/outputs/artifacts/paths/model/", JobOutputUri("j", "artifacts", "model/")),
    ("runs:/j/model", JobOutputUri("j", "artifacts", "model")),
    ("https://localhost:8445/tm1.blob.core.windows.net/c/a/b%20c", BlobUrl("tm1", "c", "a/b c")),
    ("https://127.0.0.1:1/tm1.blob.core.windows.net/c/a?sig=x", BlobUrl("tm1", "c", "a")),
    ("https://localhost:8445/azureml-blobstore/L/h/ctx/", BlobUrl("", "azureml-blobstore", "L/h/ctx/")),
    ("http://localhost:9999/files/a.csv", WebUrl("http://localhost:9999/files/a.csv")),
    ("https://acct.blob.core.windows.net/c/a", WebUrl("https://acct.blob.core.windows.net/c/a")),
    ("wasbs://c@acct.blob.core.windows.net/a", OtherUrl("wasbs", "wasbs://c@acct.blob.core.windows.net/a")),
    ("abfss://fs@acct.dfs.core.windows.net/a", OtherUrl("abfss", "abfss://fs@acct.dfs.core.windows.net/a")),
    ("file:///data/a%20b", LocalPath("/data/a b")),
    ("./data", LocalPath("./data")),
    ("/data/a", LocalPath("/data/a")),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_read(text, expected):
    assert parse_uri(text, NETLOC) == expected


@pytest.mark.parametrize(
    "value", [value for _, value in FORMS if not isinstance(value, BlobUrl) and "wasbs" not in str(value)]
)
def test_what_is_rendered_reads_back_as_the_same(value):
    assert parse_uri(render_uri(value), NETLOC) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("azureml:digits", "names no version. Write 'azureml:digits:VERSION'"),
        ("azureml:@latest", "names no name"),
        ("azureml://jobs/j", "names no output"),
        ("azureml://jobs/j/logs/x", "names no output"),
        ("azureml://datastores/", "names no datastore"),
        ("azureml://registries/r/nothing", "not a registry asset"),
        ("azureml://nowhere/x", "not an address"),
        ("/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a", "not the id"),
        (f"{W.arm_id}/computes/c", "not the id of an asset version"),
    ],
)
def test_refused_with_the_forms_there_are(text, words):
    with pytest.raises(InvalidRequest) as caught:
        parse_uri(text, NETLOC)
    assert words in caught.value.message
