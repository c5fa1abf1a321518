"""A model packaged by the server: the same answer from podman, from runc, from a deployment here, and from
`tidemill serve`; the same bytes each time; nothing of one that failed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accessclient import ask as ask_as
from accessclient import token_for
from containers import podman, runc, scored
from imagemaker import need as need_programs
from jobserver import JobServer, until

from hostcan import need, no_network
from tidemill.controllers.serving import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCORE = """
import json, os
import scale
def init():
    global weights
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weights.json")) as file:
        weights = json.load(file)
def run(raw):
    total = sum(w * x for w, x in zip(weights, json.loads(raw)["data"]))
    return {"answer": scale.by(total), "unit": os.environ["UNIT"], "where": os.path.basename(__file__)}
"""
REQUEST = json.dumps({"data": [1, 2, 3]})
ANSWER = {"answer": 3210, "unit": "points", "where": "score.py"}


class Place:
    """A server, and a folder with a model and a script."""

    def __init__(self, server: JobServer, work: Path) -> None:
        self.server, self.work = server, work

    def cli(self, *words: str, fails: bool = False) -> str:
        done = self.server.cli(*words, timeout=150, cwd=self.work)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def package(self, *words: str) -> dict[str, Any]:
        made = self.cli("model", "package", "weights:1", "-e", "plain:1", "--code", "code", "--entry-script",
                        "score.py", "--env", "UNIT=points", "-o", "json", *words)  # fmt: skip
        return json.loads(made)

    def containers(self) -> int:
        """Of packages, in the workspace's storage."""
        with self.server.blobs() as blobs:
            names = [one.name for one in blobs.containers(self.server.account())]
        return len([name for name in names if re.fullmatch("p[0-9a-f]{32}", name)])

    def state(self, name: str) -> str:
        found = json.loads(self.cli("package", "list", "-o", "json"))
        return next((one["state"] for one in found if one["name"] == name), "")


def answer(port: int) -> Any:
    """None: it is not ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/score", REQUEST)
        reply = connection.getresponse()
        return json.loads(reply.read()) if reply.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    work = tmp_path_factory.mktemp("package")
    work.chmod(0o755)  # the server is a user of its own
    (work / "code").mkdir()
    (work / "code" / "score.py").write_text(SCORE)
    (work / "code" / "scale.py").write_text("def by(number): return number * 10\n")
    (work / "weights.json").write_text("[1, 10, 100]")
    server = JobServer(tmp_path_factory.mktemp("home") / "h", images="use", image_folders=[str(work)])
    server.start()
    try:
        made = Place(server, work)
        made.cli("model", "create", "--name", "weights", "--path", "weights.json", "--type", "custom_model")
        (work / "conda.yml").write_text("dependencies: [python=3.11, pip]\n")
        image = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"
        made.cli("environment", "create", "--name", "plain", "--image", image, "--conda-file", "conda.yml")
        yield made
    finally:
        server.end()


@pytest.fixture(scope="module")
def first(place: Place) -> dict[str, Any]:
    return place.package("--name", "first", "--download-path", "layout")


def test_what_there_is_is_told(place: Place, first: dict[str, Any]) -> None:
    assert (first["state"], first["model"], first["environment"]) == ("Succeeded", "weights:1", "plain:1")
    assert first["image"] == "package://first:1"
    assert [layer["about"].split(":")[0] for layer in first["layers"]] == ["tidemill"] * 3
    assert [one["code"] for one in first["timeline"]][::4] == ["Created", "Progress"]
    (listed,) = json.loads(place.cli("package", "list", "--model-name", "weights", "-o", "json"))
    assert listed["digest"] == first["digest"]
    assert not list((place.server.home / "images" / ".packages").iterdir())


def test_serve_answers_the_same(place: Place) -> None:
    """What `tidemill serve` says of the same files is what every package is held to."""
    (port,) = free_ports(1)
    words = [str(Path(sys.executable).with_name("tidemill")), "serve", "code/score.py", "--model-dir", ".",
             "--port", str(port), "--env", "UNIT=points", "--python", sys.executable]  # fmt: skip
    process = subprocess.Popen(words, cwd=place.work, stderr=subprocess.DEVNULL)

    try:
        assert until(lambda: answer(port), what="an answer") == ANSWER
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_runc_runs_it(place: Place, first: dict[str, Any], tmp_path: Path) -> None:
    with runc(place.work / "layout", tmp_path) as pid:
        assert scored(pid, REQUEST, (tmp_path / "log").read_text) == ANSWER
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t1000\t1000" in status
        assert os.readlink(f"/proc/{pid}/exe").startswith("/opt/python/bin/python3")


def test_podman_runs_it_and_loads_it_as_an_archive(
    place: Place, first: dict[str, Any], tmp_path: Path
) -> None:
    with podman() as pod:
        image = pod("pull", "-q", f"oci:{place.work}/layout")
        pid = pod.start(image)
        assert scored(pid, REQUEST, pod.logs) == ANSWER
        assert pod.run("python", "-m", "pip", "--version").startswith("pip ")
        checks = "import ssl, sqlite3, ctypes, zlib, bz2, lzma, hashlib, socket; print(ssl.OPENSSL_VERSION)"
        assert pod.run("python", "-c", checks).startswith("OpenSSL")
        shown = json.loads(pod("image", "inspect", image))[0]
        assert shown["Config"]["ExposedPorts"] == {"5001/tcp": {}}
        assert shown["Labels"]["io.tidemill.model.name"] == "weights"
        archive = tmp_path / "first.tar"
        place.cli(
            "package", "download", "-n", "first", "-v", "1", "--format", "docker-archive", "-p", str(archive)
        )
        assert "first:1" in pod("load", "-i", str(archive))
        assert pod("image", "inspect", "-f", "{{.Id}}", "first:1") == shown["Id"]  # the same configuration


def test_skopeo_finds_nothing_wrong(place: Place, first: dict[str, Any], tmp_path: Path) -> None:
    need_programs("skopeo")

    def skopeo(*words: str) -> str:
        argv = ["skopeo", "--insecure-policy", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    found = json.loads(skopeo("inspect", f"oci:{place.work}/layout"))
    assert found["Digest"] == first["digest"]
    assert found["Layers"] == [layer["digest"] for layer in first["layers"]]
    skopeo("copy", f"oci:{place.work}/layout:first:1", f"oci-archive:{tmp_path}/copy.tar")
    with tarfile.open(tmp_path / "copy.tar") as tar:
        assert f"blobs/sha256/{first['digest'].removeprefix('sha256:')}" in tar.getnames()


def test_the_same_again_shares_its_layers(place: Place, first: dict[str, Any]) -> None:
    """Bytecode that a run of the script left beside it is no part of the code."""
    kept = place.work / "code" / "__pycache__"
    kept.mkdir(exist_ok=True)
    (kept / "scale.cpython-311.pyc").write_bytes(os.urandom(40))
    again = place.package("--name", "again")
    place.cli("package", "delete", "--name", "again", "--version", "1", "--yes")
    told = [one["message"] for one in again["timeline"] if one["code"] == "Progress"]
    assert sum("made before" in line for line in told) == 2
    assert [layer["digest"] for layer in again["layers"]] == [layer["digest"] for layer in first["layers"]]


def test_a_deployment_here_runs_it(place: Place, first: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        need("needs root: an image's own server needs a network of its own")
    need(no_network())
    place.cli("endpoint", "create", "--name", "packed")
    (place.work / "packed.yml").write_text(
        "name: blue\nendpoint_name: packed\nenvironment: azureml:first:1\n"
        "instance_type: Standard_DS1_v2\ninstance_count: 1\n"
    )
    (place.work / "request.json").write_text(REQUEST)
    place.cli("deployment", "create", "--file", "packed.yml", "--all-traffic")
    assert (
        json.loads(place.cli("endpoint", "invoke", "-n", "packed", "--request-file", "request.json"))
        == ANSWER
    )
    told = place.cli("package", "delete", "--name", "first", "--version", "1", "--yes", fails=True)
    assert "packed/blue" in told
    place.cli("endpoint", "delete", "--name", "packed", "--yes")


def test_an_environment_in_an_image_keeps_its_layers(
    place: Place, first: dict[str, Any], tmp_path: Path
) -> None:
    """The image is the package from before: it has a Python and a C library, as any other."""
    if os.geteuid() != 0:
        need("needs root: runc, whose containers need control groups")
    need_programs("bwrap")
    image = f"oci:{place.work}/layout"
    place.cli("environment", "create", "--name", "based", "--image", image, "--conda-file", "conda.yml")
    made = place.package("-e", "based:1", "--name", "second", "-p", "second")
    assert "one layer" not in str(made["notes"])
    index = json.loads((place.work / "second" / "index.json").read_bytes())
    blobs = place.work / "second" / "blobs" / "sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes())
    below = [layer["digest"] for layer in first["layers"]]
    assert [layer["digest"] for layer in manifest["layers"]][:3] == below
    assert manifest["annotations"]["org.opencontainers.image.base.digest"] == first["digest"]
    with runc(place.work / "second", tmp_path) as pid:
        assert scored(pid, REQUEST, (tmp_path / "log").read_text) == ANSWER
    refused = place.cli(
        "model", "package", "weights:1", "-e", "based:1", "--format", "wheelhouse", fails=True
    )
    assert "of which wheels are only a part" in refused
    place.cli("package", "delete", "--name", "second", "--version", "1", "--yes")


def test_a_wheelhouse_installs_without_a_network_and_serves(place: Place) -> None:
    made = place.package("--name", "wheels", "--format", "wheelhouse", "-p", "wheels")
    assert (made["format"], made["image"], made["digest"]) == ("wheelhouse", None, None)
    (port,) = free_ports(1)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": os.path.realpath(sys.executable),
        "AZUREML_SERVER_PORT": str(port),
        "http_proxy": "http://127.0.0.1:9",  # nobody is there
        "https_proxy": "http://127.0.0.1:9",
    }
    log = place.work / "wheels.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [place.work / "wheels" / "run"], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        assert until(lambda: answer(port), 60, log.read_text()) == ANSWER
        pip = [place.work / "wheels" / ".venv" / "bin" / "pip", "list", "--format", "json"]
        listed = json.loads(subprocess.run(pip, capture_output=True, check=True, timeout=60).stdout)
        locked = (place.work / "wheels" / "requirements.txt").read_text().splitlines()
        assert [f"{one['name']}=={one['version']}" for one in listed] == [line.split()[0] for line in locked]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    told = place.cli("package", "download", "-n", "wheels", "-v", "1", "-p", "no", fails=True)
    assert "give --format wheelhouse" in told
    place.cli("package", "delete", "--name", "wheels", "--version", "1", "--yes")


def test_a_container_group_runs_it(place: Place, first: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        need("needs root: a container group needs a network of its own")
    need(no_network())
    where = place.server.state["workspace"]["name"]
    create = ("container", "create", "--name", "packed", "--ports", "5001")
    assert "write package://WORKSPACE/NAME" in place.cli(*create, "--image", "package://first:1", fails=True)
    place.cli(*create, "--image", f"package://{where}/first:1")
    program = (
        f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:5001/score', b'{REQUEST}').read())"
    )

    def asked() -> str:
        words = ("container", "exec", "--name", "packed", "--", "python", "-c", program)
        done = place.server.cli(*words, timeout=60, cwd=place.work)
        return done.stdout if done.returncode == 0 else ""

    said = until(asked, 90, "an answer of the group")
    assert json.loads(said.strip()[2:-1]) == ANSWER
    told = place.cli("package", "delete", "--name", "first", "--version", "1", "--yes", fails=True)
    assert "in use by container group 'packed'" in told
    place.cli("container", "delete", "--name", "packed", "--yes")


def test_roles_decide_who_packages_and_who_fetches(place: Place, first: dict[str, Any]) -> None:
    server = place.server
    eve = json.loads(place.cli("access", "create-user", "eve", "-o", "json"))
    place.cli("access", "grant", "eve", "Reader")
    token, native = token_for(server.home, server.state, eve), f"/api/v1{server.workspace}/packages"
    status, listed = ask_as(server.state, token, "GET", native)
    assert (status, [one["name"] for one in listed["value"]][-1]) == (200, "first")
    version = f"{native}/first/versions/1"
    for method, path in (
        ("POST", f"{version}/download"),
        ("DELETE", version),
        ("POST", f"{server.workspace}/models/weights/versions/1/package?api-version=2023-08-01-preview"),
    ):
        status, refused = ask_as(server.state, token, method, path, {"targetEnvironmentId": "eves"})
        assert (status, refused["error"]["code"]) == (403, "AuthorizationFailed")


def test_the_models_page_names_its_packages(place: Place, first: dict[str, Any]) -> None:
    where = place.server.state["workspace"]
    page = f"/ui/{where['subscription']}/{where['group']}/{where['name']}/models/weights/1"
    _, answer = place.server.call("POST", "/api/v1/portal/link", {"next": page})
    connection = place.server.connection()
    connection.request("GET", "/" + answer["url"].split("/", 3)[3])
    reply = connection.getresponse()
    reply.read()
    cookie = str(reply.getheader("set-cookie")).split(";")[0]
    connection.request("GET", page, headers={"Cookie": cookie})
    text = connection.getresponse().read().decode()
    connection.close()
    assert '<li id="p-first-1">first:1' in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["weights:7"], "'7' was not found"),
        (["wieghts:1"], "Did you mean 'weights'"),
        (["weights:1", "-e", "nothing:1"], "Environment 'nothing'"),
        (
            ["weights:1", "-e", "plain:1", "--code", "code", "--entry-script", "other.py"],
            "no file 'other.py'",
        ),
        (["weights:1", "-e", "plain:1", "--code", "code"], "by --entry-script"),
        (["weights:1", "-e", "plain:1", "--entry-script", "score.py"], "give that by --code"),
        (["weights:1"], "no environment"),
        (["weights:1", "-e", "plain:1", "--env", "KEY=${{secrets.KEY}}"], "no secret goes into it (KEY)"),
        (["weights:1", "-e", "plain:1", "--format", "docker-archive"], "name it by --download-path"),
        (["weights:1", "-e", "plain:1", "-p", "code"], "exists and is no empty folder"),
    ],
)
def test_what_cannot_be_packaged_is_refused_with_the_reason(
    place: Place, words: list[str], told: str
) -> None:
    assert told in place.cli("model", "package", *words, fails=True)
    assert all(one["state"] != "Creating" for one in json.loads(place.cli("package", "list", "-o", "json")))


def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path: Path) -> None:
    """The process that writes layers, on a disk of two MiB."""
    if os.geteuid() != 0:
        need("needs root: mounting")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        order = {"format": "oci", "layout": f"{disk}/layout", "work": str(tmp_path), "architecture": "amd64",
                 "reference": "x:1", "server": str(tmp_path), "python": sys.executable}  # fmt: skip
        words = [sys.executable, "-I", "-m", "tidemill.packaging.work"]
        done = subprocess.run(words, input=json.dumps(order), capture_output=True, text=True, timeout=60)
        assert json.loads(done.stdout.splitlines()[-1]) == {"full": True}, done.stderr
        assert [path for path in disk.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.kill
def test_a_kill_while_it_is_made_leaves_nothing_and_it_is_made(place: Place, first: dict[str, Any]) -> None:
    server, making = place.server, place.server.home / "images" / ".packages"
    (place.work / "big.bin").write_bytes(os.urandom(48 << 20))
    place.cli("model", "create", "--name", "big", "--path", "big.bin", "--type", "custom_model")
    words = [str(Path(sys.executable).with_name("tidemill")), "--home", str(server.home), "model", "package",
             "big:1", "-e", "plain:1", "--code", "code", "--entry-script", "score.py"]  # fmt: skip
    asked = subprocess.Popen(words, cwd=place.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: list(making.glob("make-*/layout/blobs/sha256/.layer-*")), 60, "a layer half written")
    server.kill()
    asked.wait(60)
    server.start()
    until(lambda: place.state("big-package") == "Succeeded", 60, "the package")
    assert list(making.iterdir()) == []
    place.cli("package", "delete", "--name", "big-package", "--version", "1", "--yes")


def test_a_package_that_is_deleted_while_it_is_made_is_gone(place: Place, first: dict[str, Any]) -> None:
    making = place.server.home / "images" / ".packages"
    path = f"{place.server.workspace}/models/big/versions/1/package?api-version=2023-08-01-preview"
    body = {
        "targetEnvironmentId": "gone",
        "baseEnvironmentSource": {"resourceId": f"{place.server.workspace}/environments/plain/versions/1"},
    }
    status, _ = place.server.call("POST", path, body)
    assert status == 202
    until(lambda: list(making.glob("make-*/layout/blobs/sha256/.layer-*")), 60, "a layer half written")
    place.cli("package", "delete", "--name", "gone", "--version", "1", "--yes")
    until(lambda: not list(making.iterdir()), what="the end of what was being made")
    assert place.state("gone") == ""
    kept = len(json.loads(place.cli("package", "list", "-o", "json")))
    until(lambda: place.containers() == kept, what="no container but those of packages")


def test_made_anew_it_is_the_same_bytes(place: Place, first: dict[str, Any]) -> None:
    """With the last package that has them, layers are forgotten: they are all made again."""
    place.cli("package", "delete", "--name", "first", "--version", "1", "--yes")
    assert json.loads(place.cli("package", "list", "-o", "json")) == []
    anew = place.package("--name", "first")
    assert not any("made before" in one["message"] for one in anew["timeline"])
    assert anew["digest"] == first["digest"]
