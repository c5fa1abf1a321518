"""Tables as inputs: what an MLTable names is found at submit, and lies in the table's folder once staged."""

from __future__ import annotations

import pytest
import yaml

from tidemill.app.assets import assets, inputs, mltables
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.asset_rows import DATA
from tidemill.app.rows.codec import decode_object, encode
from tidemill.data.staging import stage_inputs
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.jobspec import JobInput
from tidemill.domain.plan import PlannedInput

BLOBS = "azureml://datastores/workspaceblobstore/paths"
TABLE = f"""
type: mltable
paths:
  - file: ./in.csv
  - file: ../beside/b.csv
  - folder: {BLOBS}/far/dir
  - pattern: {BLOBS}/far/**/*.tsv
"""


@pytest.fixture
async def account(services, scope):
    return await services.store.read(lambda read: account_for(read, scope))


@pytest.fixture
def put(services, account):
    def call(name: str, text: str = "1") -> None:
        services.blobs.put_bytes(account, "azureml-blobstore", name, text.encode())

    return call


@pytest.fixture
def plan(services, scope, owner, account):
    async def call(value: str = f"{BLOBS}/t/", mode: str = "ro_mount") -> PlannedInput:
        item = JobInput("t", "mltable", value, mode)
        found = await services.store.read(
            lambda read: inputs.resolve_input(services, read, scope, account, item)
        )
        await inputs.check_inputs_exist(services, [found])
        return (await mltables.with_parts(services, owner, scope, account, [found]))[0]

    return call


async def test_what_lies_elsewhere_is_in_the_folder_of_the_table(services, plan, put, tmp_path):
    for name, text in {
        "t/MLTable": TABLE,
        "t/in.csv": "in",
        "beside/b.csv": "beside",
        "far/dir/c.csv": "far",
        "far/x.tsv": "x",
        "far/deep/y.tsv": "y",
        "far/deep/z.csv": "z",
    }.items():
        put(name, text)
    item = await plan()
    staged = stage_inputs(services.blobs, [item], tmp_path / "inputs")
    folder = tmp_path / "inputs" / "t"
    table = yaml.safe_load((folder / "MLTable").read_text())
    in_, beside, far, pattern = (next(iter(entry.values())) for entry in table["paths"])
    assert in_ == "./in.csv"
    assert (folder / beside).read_text() == "beside"
    assert (folder / far / "c.csv").read_text() == "far"
    assert sorted(path.read_text() for path in folder.glob(pattern)) == ["x", "y"]
    assert any("MLTable" in note for note in staged.notes)
    stage_inputs(services.blobs, [item], tmp_path / "inputs")  # a staging can be repeated
    put("t/MLTable", TABLE.replace("../beside/b.csv", "./in.csv"))
    with pytest.raises(Conflict, match="was changed after the job was submitted"):
        stage_inputs(services.blobs, [item], tmp_path / "again")


async def test_a_table_within_its_folder_is_staged_as_it_is(services, plan, put, tmp_path):
    text = "# mine\npaths:\n- pattern: ./*.csv\n"
    put("t/MLTable", text)
    put("t/a.csv")
    item = await plan()
    assert item.parts == ()
    stage_inputs(services.blobs, [item], tmp_path)
    assert (tmp_path / "t" / "MLTable").read_text() == text


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("file: ./nope.csv", NotFound, "MLTable:2:9: ./nope.csv"),
        ("file: ../../out.csv", InvalidRequest, "leads out of its container"),
        ("file: /home/me/x.csv", InvalidRequest, "MLTable:2:9: '/home/me/x.csv' is a path on some machine"),
        ("folder: azureml://datastores/nope/paths/x", NotFound, "MLTable:2:11: Datastore 'nope'"),
        ("file: abfss://c@a.dfs.core.windows.net/x", NotOffered, "abfss://"),
        ("flie: x", InvalidRequest, "did you mean 'file'?"),
    ],
)
async def test_refused_at_submit_with_line_and_column(plan, put, path, error, words):
    put("t/MLTable", f"paths:\n- {path}\n")
    with pytest.raises(error) as caught:
        await plan()
    assert words in caught.value.message


async def test_a_web_address_stays_one(plan, put):
    put("t/MLTable", "paths:\n- file: https://example.org/x.csv\n")
    assert (await plan()).parts == ()


async def test_a_folder_without_an_mltable_is_none(plan, put):
    put("t/a.csv")
    with pytest.raises(NotFound, match="no file MLTable"):
        await plan()
    assert (await plan(mode="direct")).parts == ()


async def test_registering_a_table_reads_it(services, scope, owner, put):
    async def register(name: str, **more):
        properties = {"dataUri": f"{BLOBS}/t", "dataType": "mltable", **more}
        body = {"properties": properties}
        row, _ = await assets.put_version(services, owner, scope, DATA, name, "1", body)
        return decode_object(row.spec)

    with pytest.raises(NotFound, match="no file MLTable"):
        await register("a")
    put("t/MLTable", "paths:\n- file: ./a.csv\n- fle: x\n")
    with pytest.raises(InvalidRequest, match="MLTable:3:3"):
        await register("a")
    put("t/MLTable", "paths:\n- file: ./a.csv\n")
    assert (await register("a"))["referencedUris"] == ["./a.csv"]
    assert (await register("a", referencedUris=["./a.csv"]))["referencedUris"] == ["./a.csv"]
    with pytest.raises(InvalidRequest, match=r"are ./b.csv, but its MLTable names ./a.csv"):
        await register("b", referencedUris=["./b.csv"])


def test_a_plan_without_parts_is_read_as_before():
    assert b'"parts":[]' in encode(PlannedInput("a", "uri_file", "ro_mount", "x"))
