"""The portal's pages of models, data, environments and components, as an owner and others get them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from jobserver import JobServer, until
from portalhouse import House
from wheelmaker import wheel

from tidemill.environments.filelock import FileLock

EVIL = "<script>alert(1)</script>"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MLTABLE = """\
paths:
  - pattern: ./parts/*.csv
transformations:
  - read_delimited: {delimiter: ";", header: all_files_same_headers}
  - drop_columns: [secret]
"""
MLMODEL = """\
flavors:
  sklearn: {pickled_model: model.pkl, sklearn_version: 1.5.0}
signature:
  inputs: '[{"type": "double", "name": "petal <b>", "required": true}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
  params: null
"""
COMPONENT = """\
type: command
name: train
version: "1"
display_name: Train it
inputs:
  rate: {type: number, default: 0.1, min: 0, max: 1}
outputs:
  model: {type: uri_folder}
command: echo ${{inputs.rate}} > ${{outputs.model}}/x
environment: azureml:tide:1
"""
DEPLOYMENT = """\
name: blue
endpoint_name: answers
model: azureml:made:1
code_configuration: {code: src, scoring_script: score.py}
environment: azureml:tide:1
instance_type: Standard_DS1_v2
instance_count: 0
"""


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    files: dict[str, str | bytes] = {f"many/{number:03}.txt": "x" for number in range(230)}
    files |= {
        "cells.csv": f'name,value\n{EVIL},1\n"a, b",2\n',
        "mixed/deep/notes.txt": f"hello {EVIL}\n",
        "mixed/lines.jsonl": '{"a": 1}\n{"b": {"c": 2}}\n',
        "mixed/dot.png": PNG,
        "mixed/bad.csv": "a,b\n\0\0",
        "mixed/page.svg": f"<svg xmlns='http://www.w3.org/2000/svg'>{EVIL}</svg>",
        "table/MLTable": MLTABLE,
        "table/parts/1.csv": "id;secret\n7;hidden\n",
        "model/MLmodel": MLMODEL,
        "model/model.pkl": b"\x80\x04.",
        "train.yml": COMPONENT,
        "src/score.py": "def init(): pass\ndef run(data): return data\n",
        "deployment.yml": DEPLOYMENT,
    }
    return write(folder, files)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[House]:
    wheels = tmp_path_factory.mktemp("wheels")
    wheels.chmod(0o755)  # builds read it as a user of their own
    wheel(wheels, "tmtide", "1.0")
    wheel(wheels, "pip", "99.0")
    config = wheels / "uv.toml"
    config.write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    server = JobServer(tmp_path_factory.mktemp("assets") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CONFIG_FILE", str(config))
        server.start()
    house = House(server)

    def run(*words: str) -> None:
        done = server.cli(*words, cwd=folder)
        assert done.returncode == 0, done.stderr

    for name, path, kind in (
        ("cells", "cells.csv", "uri_file"),
        ("mixed", "mixed", "uri_folder"),
        ("many", "many", "uri_folder"),
        ("table", "table", "mltable"),
    ):
        run("data", "create", "--name", name, "--version", "1", "--path", path, "--type", kind)
    run("model", "create", "--name", "flowers", "--path", "model", "--type", "mlflow_model")
    conda = "dependencies:\n  - python\n  - pip:\n    - tmtide\n"
    properties = {"image": "python", "condaFile": conda, "description": f"for {EVIL}"}
    assert server.arm("PUT", "environments/tide/versions/1", {"properties": properties})[0] == 201
    run("component", "create", "--file", "train.yml")
    server.submit(
        "maker",
        "cat ${{inputs.cells}} && cp ${{inputs.cells}} ${{outputs.model}}/m",
        environmentId="azureml:tide:1",
        inputs={"cells": {"jobInputType": "uri_file", "uri": "azureml:cells@latest"}},
        outputs={"model": {"jobOutputType": "custom_model", "assetName": "made", "assetVersion": "1"}},
    )
    made = server.wait("maker", 60)
    assert made["status"] == "Completed", made["error"]
    run("endpoint", "create", "--name", "answers")
    run("deployment", "create", "--file", "deployment.yml")
    for name in ("scientist", "reader"):
        house.make(name)
    house.access("grant", "scientist", "AzureML Data Scientist")
    house.access("grant", "reader", "Reader")  # may look at everything, but not at the bytes in the storage
    yield house
    server.end()


def test_the_pages_are_in_the_navigation_and_closed_to_others(house: House) -> None:
    page = house.get("owner", "jobs")
    for section in ("models", "data", "environments", "components"):
        assert f'href="{house.base}/{section}"' in page.html
        assert house.get("", section).status == 401
    house.make("stranger")
    for path in (
        "models",
        "models/made",
        "data/cells/1",
        "data/mixed/1/picture?path=dot.png",
        "environments",
    ):
        answer = house.get("stranger", path)
        assert answer.status == 403
        assert "Microsoft.MachineLearningServices/workspaces/" in answer.text


def test_a_model_says_where_it_came_from_and_what_answers_with_it(house: House) -> None:
    listed = house.get("owner", "models")
    assert re.search(r"flowers 1 mlflow_model sklearn", listed.text)
    page = house.get("owner", "models/made")
    assert f'id="made-by" href="{house.base}/jobs/maker"' in page.html
    assert f'href="{house.base}/endpoints/answers"' in page.html
    assert "answers/blue" in page.text
    assert "tidemill model download --name made --version 1" in page.text
    assert "model=azureml:made:1" in page.text
    assert re.search(r'href="[^"]+\?path=m">m</a>', page.html)
    endpoint = house.get("owner", "endpoints/answers")
    assert f'href="{house.base}/models/made/1"' in endpoint.html
    assert f'href="{house.base}/environments/tide/1"' in endpoint.html
    job = house.get("owner", "jobs/maker")
    for to in ("models/made/1", "environments/tide/1", "data/cells"):
        assert f'href="{house.base}/{to}"' in job.html


def test_an_mlflow_model_shows_its_signature_and_flavors(house: House) -> None:
    page = house.get("owner", "models/flowers/1")
    assert "petal <b> double" in page.text
    assert "<b>" not in page.html
    assert "int64 [-1]" in page.text
    assert "sklearn_version 1.5.0" in page.text
    assert "MLmodel" in page.text


def test_data_is_looked_at_and_escaped(house: House) -> None:
    page = house.get("owner", "data/cells")
    assert EVIL not in page.html
    assert f"name value {EVIL} 1 a, b 2" in page.text
    assert "2 rows." in page.text
    assert f'href="{house.base}/jobs/maker"' in page.html  # it was named by its label
    folder = house.get("owner", "data/mixed/1")
    assert 'path=deep/"' in folder.html
    assert "lines.jsonl" in folder.text
    text = house.get("owner", "data/mixed/1?path=deep/notes.txt")
    assert EVIL not in text.html
    assert f"hello {EVIL}" in text.text
    lines = house.get("owner", "data/mixed/1?path=lines.jsonl")
    assert 'a b 1 {"c": 2}' in lines.text
    assert "It cannot be read as csv: it is binary." in house.get("owner", "data/mixed/1?path=bad.csv").text
    svg = house.get("owner", "data/mixed/1?path=page.svg")
    assert "<img id" not in svg.html
    assert EVIL not in svg.html
    gone = house.get("owner", "data/mixed/1?path=" + quote("../../x"))
    assert gone.status == 200
    assert "Nothing is stored at" in gone.text


def test_a_picture_comes_from_an_address_where_nothing_runs(house: House) -> None:
    page = house.get("owner", "data/mixed/1?path=dot.png")
    assert f'src="{house.base}/data/mixed/1/picture?path=dot.png"' in page.html
    answer = house.server.connection()
    answer.request(
        "GET",
        f"{house.base}/data/mixed/1/picture?path=dot.png",
        headers={"cookie": f"tidemill_session={house.tokens['owner']}"},
    )
    reply = answer.getresponse()
    assert reply.read() == PNG
    assert reply.headers["content-type"] == "image/png"
    assert "sandbox" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    answer.close()
    for other in ("page.svg", "lines.jsonl", "none"):
        assert house.get("owner", f"data/mixed/1/picture?path={other}").status == 404


def test_a_table_shows_its_first_rows_by_its_own_rules(house: House) -> None:
    page = house.get("owner", "data/table")
    assert "From parts/1.csv" in page.text
    assert re.search(r'<table id="rows"><thead><tr><th scope="col">id</th></tr></thead>', page.html)
    assert "hidden" not in page.text
    assert "MLTable" in page.text


def test_a_folder_is_paged(house: House) -> None:
    first = house.get("owner", "data/many/1")
    assert first.html.count(".txt</a>") == 200
    further = re.search(r'id="further" href="([^"]+)"', first.html)
    assert further
    second = house.get("owner", further[1].replace("&amp;", "&"))
    assert second.html.count(".txt</a>") == 30
    assert 'id="further"' not in second.html


def test_who_may_not_read_the_bytes_sees_no_preview(house: House) -> None:
    assert "a, b" in house.get("scientist", "data/cells").text
    for path, secret in (("data/cells", "a, b"), ("data/mixed", "lines.jsonl"), ("models/flowers", "petal")):
        page = house.get("reader", path)
        assert page.status == 200
        assert secret not in page.text
        assert "You may not read the bytes of this workspace" in page.text
    assert house.get("reader", "data/mixed/1/picture?path=dot.png").status == 403


def test_a_role_on_one_asset_shows_no_jobs(house: House) -> None:
    house.make("guest")
    for asset in ("data/cells", "models/made", "environments/tide"):
        house.access("grant", "guest", "Reader", "--scope", asset)
        page = house.get("guest", asset)
        assert page.status == 200
        assert "You may not read the jobs of this workspace." in page.text
        assert f"{house.base}/jobs/" not in page.html
        assert "answers" not in page.text
        assert "a, b" not in page.text
    assert house.get("guest", "data/mixed").status == 403


def test_an_environment_shows_its_lock_and_its_build(house: House) -> None:
    listed = house.get("owner", "environments")
    assert re.search(r"AzureML-\S+", listed.text)
    page = house.get("owner", "environments/tide/1")
    assert EVIL not in page.html
    assert re.search(r'id="state" class="badge completed">built<', page.html)
    assert re.search(r"tmtide</td><td class=\"nowrap\">1\.0</td>.*sha256:[0-9a-f]{12}", page.html, re.S)
    assert 'id="build-log"' in page.html
    assert "tmtide" in page.html.partition('id="build-log"')[2]
    assert f'href="{house.base}/jobs/maker"' in page.html
    assert "answers/blue" in page.text
    curated = re.search(r'id="c-([^"]+)" href="([^"]+)"', listed.html)
    assert curated
    one = house.get("owner", curated[2])
    assert "curated" in one.text
    assert "not built" in one.text
    assert "dependencies:" in one.text
    assert house.get("owner", "environments/nothing").status == 404


def test_a_build_is_followed_while_it_goes_on(house: House) -> None:
    properties = {"image": "python", "condaFile": "dependencies:\n  - python\n  - pip:\n    - tmnone\n"}
    assert house.server.arm("PUT", "environments/lost/versions/1", {"properties": properties})[0] == 201
    page = house.get("owner", "environments/lost/1")
    assert ">not built<" in page.html
    poll = re.search(r'hx-get="([^"]+)"', page.html)
    assert poll
    house.server.submit("fails", "true", environmentId="azureml:lost:1")
    assert house.server.wait("fails")["status"] == "Failed"
    part = house.get("owner", poll[1].replace("&amp;", "&"), hx_request="true")
    assert ">failed<" in part.html
    assert "tmnone" in part.html.partition('id="build-log"')[2]
    digest = house.server.job("fails")["environment_digest"]
    with FileLock(house.server.home / "envs" / ".locks" / digest) as held:
        until(held.try_acquire, what="the lock of a build that is over")  # as if another process built it
        house.server.submit("waits", "true", environmentId="azureml:lost:1")
        house.server.until_state("waits", "Preparing")
        part = house.get("owner", poll[1].replace("&amp;", "&"), hx_request="true")
        assert ">building<" in part.html
        assert f'Waiting for it: <a href="{house.base}/jobs/waits"' in part.html
    assert house.server.wait("waits")["status"] == "Failed"


def test_a_component_is_copied_from_its_page(house: House, folder: Path) -> None:
    page = house.get("owner", "components/train")
    assert "rate input number 0…1 0.1" in page.text
    assert "model output uri_folder" in page.text
    raw = re.search(r'<pre id="yaml"[^>]*>(.*?)</pre>', page.html, re.S)
    assert raw
    copied = yaml.safe_load(unescape(raw[1]))
    assert copied["command"] == yaml.safe_load(COMPONENT)["command"]
    copied["version"] = "2"
    (folder / "copied.yml").write_text(yaml.safe_dump(copied))
    done = house.server.cli("component", "create", "--file", "copied.yml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert 'id="v-1"' in house.get("owner", "components/train/2").html


def test_what_is_archived_is_shown_on_demand(house: House) -> None:
    assert house.server.cli("data", "archive", "--name", "table").returncode == 0
    assert 'id="a-table"' not in house.get("owner", "data").html
    everything = house.get("owner", "data?archived=1")
    assert re.search(r'id="a-table".*?archived', everything.html, re.S)
    page = house.get("owner", "data/table/1")
    assert "archived: lists leave it out" in page.text


def test_lists_are_paged(house: House) -> None:
    for number in range(51):
        body = {"properties": {"modelUri": "https://example.test/m", "modelType": "custom_model"}}
        assert house.server.arm("PUT", f"models/m{number:02}/versions/1", body)[0] == 201
    first = house.get("owner", "models")
    older = re.search(r'id="older" href="([^"]+)"', first.html)
    assert older
    assert 'id="a-made"' not in first.html
    second = house.get("owner", older[1].replace("&amp;", "&"))
    assert 'id="a-made"' in second.html
    assert "not in this workspace" in house.get("owner", "models/m00").text


def test_an_empty_workspace_says_what_to_type(house: House) -> None:
    assert house.server.cli("workspace", "create", "--name", "quiet").returncode == 0
    base = house.base.rsplit("/", 1)[0] + "/quiet"
    for section in ("model", "data", "environment", "component"):
        page = house.get("owner", f"{base}/{section if section == 'data' else section + 's'}")
        assert f"tidemill {section} create" in page.text
        assert "-w quiet" in page.text
