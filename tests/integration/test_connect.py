"""`tidemill connect`: a laptop and a server as two hosts (network namespaces joined by a cable), and both
on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tidemill.server import launch

TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
PASSWORD = "correct horse battery"
SERVER, LAPTOP, PEER = "10.87.1.1", "10.87.1.2", "gpu1.tidemill.test"


@dataclass
class Host:
    """Where commands run: a network namespace, or this machine."""

    home: Path
    namespace: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def run(
        self, argv: list[str], stdin: str = "", env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        prefix = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AZURE", "PYTHON", "TIDEMILL"))}
        return subprocess.run(
            [*prefix, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**kept, **(env or {})},
        )

    def cli(self, *words: str, stdin: str = "", fails: bool = False) -> subprocess.CompletedProcess[str]:
        done = self.run([TIDEMILL, "--home", str(self.home), *words], stdin)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.cli(*words, "-o", "json").stdout)


def make_team(server: Host) -> None:
    server.cli("access", "create-user", "ann")
    server.cli("access", "set-password", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    server.cli("access", "grant", "ann", "AzureML Data Scientist")


def connected(server: Host, laptop: Host, place: str) -> None:
    fingerprint = server.json("status")["fingerprint"]
    laptop.cli(
        *("connect", place, "--fingerprint", fingerprint, "--user", "ann", "--password-stdin", "--detach"),
        stdin=PASSWORD + "\n",
    )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """(server, laptop), each with a network of its own and a cable between them."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    run = uuid.uuid4().hex[:6]
    server = Host(tmp_path_factory.mktemp("server"), f"tm-{run}-s")
    laptop = Host(tmp_path_factory.mktemp("laptop"), f"tm-{run}-l")
    ends = f"tm{run}s", f"tm{run}l"
    try:
        for host in (server, laptop):
            subprocess.run(["ip", "netns", "add", host.namespace], check=True, capture_output=True)
        peer = ["peer", "name", ends[1], "netns", laptop.namespace]
        cable = ["ip", "link", "add", ends[0], "netns", server.namespace, "type", "veth", *peer]
        subprocess.run(cable, check=True, capture_output=True)
        for host, end, address in ((server, ends[0], SERVER), (laptop, ends[1], LAPTOP)):
            for words in (
                ["addr", "add", f"{address}/24", "dev", end],
                ["link", "set", end, "up"],
                ["link", "set", "lo", "up"],
            ):
                subprocess.run(["ip", "-n", host.namespace, *words], check=True, capture_output=True)
        yield server, laptop
    except FileNotFoundError:
        if os.environ.get("CI") == "true":
            pytest.fail("iproute2 (ip) is not installed")
        pytest.skip("iproute2 (ip) is not installed")
    finally:
        for host in (laptop, server):
            launch.down(host.home)
        _end_agents(server.home)
        for host in (server, laptop):
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True)


def _end_agents(home: Path) -> None:
    nodes = f"{home / 'nodes'}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(word.startswith(nodes) for word in (process / "cmdline").read_bytes().split(b"\0")):
                os.kill(int(process.name), 9)


@pytest.fixture(scope="module")
def pair(hosts: tuple[Host, Host]) -> tuple[Host, Host]:
    server, laptop = hosts
    # The SDK's job names an image that only a public registry has: the host stands in for it.
    ports = ("--https-port", "0", "--http-port", "0", "--data-port", "0")
    server.cli("up", "--detach", *ports, "--images", "prefer-host")
    make_team(server)
    server.cli("down")
    server.cli("up", "--detach", "--listen", SERVER, "--name", PEER)
    port = server.json("status")["addresses"]["https"].rsplit(":", 1)[1]
    connected(server, laptop, f"{SERVER}:{port}")
    return server, laptop


pytestmark = pytest.mark.root


def test_the_cli_works_as_if_the_server_were_here(pair: tuple[Host, Host]) -> None:
    server, laptop = pair
    status = laptop.json("status")
    assert status["relays"] is True
    assert status["home"] == str(laptop.home)
    assert status["addresses"] == server.json("status")["addresses"]
    assert laptop.json("job", "list") == []
    refused = laptop.cli("access", "create-user", "eve", fails=True)
    assert "does not have authorization" in refused.stderr


DEPLOYMENT = """\
name: blue
endpoint_name: sums
model: {path: bias.txt}
code_configuration: {code: src, scoring_script: score.py}
environment: {conda_file: {dependencies: [python]}}
instance_type: Standard_DS1_v2
"""


def test_endpoints_answer_on_the_laptop(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """At the address that they have on the server, with the server's own certificate."""
    _, laptop = pair
    (tmp_path / "src").mkdir()
    (tmp_path / "src/score.py").write_text("def init(): pass\ndef run(data): return data\n")
    (tmp_path / "bias.txt").write_text("1")
    (tmp_path / "blue.yml").write_text(DEPLOYMENT)
    laptop.cli("endpoint", "create", "--name", "sums")
    laptop.cli("deployment", "create", "--file", str(tmp_path / "blue.yml"), "--all-traffic")
    assert laptop.json("endpoint", "show", "--name", "sums")["scoring_uri"].startswith("https://localhost:")
    asked = laptop.cli("endpoint", "invoke", "--name", "sums", "--data", '{"a": 1}')
    assert json.loads(json.loads(asked.stdout)) == {"a": 1}
    laptop.cli("endpoint", "delete", "--name", "sums", "--yes")


SDK = """
import json, os, sys
from pathlib import Path
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import Environment
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
folder = Path(sys.argv[1])
(folder / "code").mkdir()
text = "open('outputs/x.txt', 'w').write('made there'); print('said there')"
(folder / "code" / "main.py").write_text(text)
ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
job = ml.jobs.create_or_update(command(command="python main.py", code=str(folder / "code"),
                                       environment="plain:1", compute="local"))
ml.jobs.stream(job.name)
ml.jobs.download(job.name, download_path=folder / "down", all=True)
found = [p.read_text() for p in (folder / "down").rglob("x.txt")]
done = ml.jobs.get(job.name)
print("RESULT" + json.dumps({"status": done.status, "files": found,
                           "by": done.creation_context.created_by}))
"""


@pytest.mark.sdk
def test_the_real_sdk_on_the_laptop(pair: tuple[Host, Host], sdk_python: str, tmp_path: Path) -> None:
    _, laptop = pair
    env = laptop.json("env")
    done = laptop.run([sdk_python, "-c", SDK, str(tmp_path)], env=env)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    found = json.loads(line.removeprefix("RESULT"))
    assert found == {"status": "Completed", "files": ["made there"], "by": "ann"}
    assert "said there" in done.stdout


def test_variables_stay_good_over_restarts_of_both(pair: tuple[Host, Host]) -> None:
    server, laptop = pair
    before = laptop.json("env")
    laptop.cli("down")
    server.cli("down")
    server.cli("up", "--detach")
    laptop.cli("connect", "--detach")
    assert laptop.json("env") == before
    assert laptop.cli("job", "list")


def test_signing_out_and_in_again_while_connected(pair: tuple[Host, Host]) -> None:
    server, laptop = pair
    laptop.cli("logout")
    refused = laptop.cli("job", "list", fails=True)
    assert "Sign in: tidemill login" in refused.stderr
    laptop.cli("login", "--user", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    assert laptop.cli("job", "list")
    server.cli("access", "sign-out", "ann")
    # What the laptop holds is dead at once, its refresh token too.
    assert "ended" in laptop.cli("job", "list", fails=True).stderr
    laptop.cli("login", "--user", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    assert laptop.cli("job", "list")


def test_a_program_connects_with_its_secret(pair: tuple[Host, Host], tmp_path: Path) -> None:
    server, laptop = pair
    server.cli("access", "create-principal", "ci")
    server.cli("access", "grant", "ci", "Reader")
    made = server.json("access", "create-secret", "ci")
    laptop.cli("login", "--client-id", made["client_id"], "--secret-stdin", stdin=made["secret"] + "\n")
    assert laptop.json("job", "list") is not None
    wrong = laptop.cli(
        "login", "--client-id", made["client_id"], "--secret-stdin", stdin="tms_wrong\n", fails=True
    )
    assert "client secret is wrong" in wrong.stderr


def test_another_server_at_the_same_address_is_not_believed(pair: tuple[Host, Host], tmp_path: Path) -> None:
    server, laptop = pair
    port = server.json("status")["addresses"]["https"].rsplit(":", 1)[1]
    other = Host(tmp_path / "other", laptop.namespace)
    refused = other.cli("connect", f"{SERVER}:{port}", "--fingerprint", "sha256:" + "0" * 64, fails=True)
    assert "another server, or somebody is in between" in refused.stderr
    refused = other.cli("connect", f"{SERVER}:{port}", fails=True)
    assert "--fingerprint sha256:" in refused.stderr
    assert not (tmp_path / "other" / "client.json").exists()
    unanswered = other.cli("connect", f"{SERVER}:9", fails=True)
    assert "Nothing answers over TLS" in unanswered.stderr


def test_a_new_name_of_the_server_needs_no_new_trust(pair: tuple[Host, Host]) -> None:
    server, laptop = pair
    laptop.cli("down")
    server.cli("down")
    server.cli("up", "--detach", "--name", f"{PEER},gpu2.tidemill.test")
    laptop.cli("connect", "--detach")
    assert laptop.json("status")["answers"] is True


# --- both on one machine


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    server, neighbour = (Host(tmp_path_factory.mktemp(name)) for name in ("ann-home", "bob-home"))
    try:
        server.cli("up", "--detach", "--https-port", "0", "--http-port", "0", "--data-port", "0")
        make_team(server)
        yield server, neighbour
    finally:
        for host in (neighbour, server):
            launch.down(host.home)


def test_a_neighbour_on_the_same_machine_needs_no_relay(neighbours: tuple[Host, Host]) -> None:
    server, neighbour = neighbours
    port = server.json("status")["addresses"]["https"].rsplit(":", 1)[1]
    connected(server, neighbour, f"localhost:{port}")
    assert neighbour.json("status")["relays"] is False
    assert neighbour.json("job", "list") == []
    assert neighbour.json("env")["IDENTITY_ENDPOINT"] != server.json("env")["IDENTITY_ENDPOINT"]
    kept = (neighbour.home / "secrets" / "sign-in.json").stat()
    assert kept.st_mode & 0o777 == 0o600


def test_homes_are_not_mixed_up(neighbours: tuple[Host, Host]) -> None:
    server, neighbour = neighbours
    assert "home of a server" in server.cli("connect", "localhost", fails=True).stderr
    assert "no Tidemill home" in neighbour.cli("up", "--detach", fails=True).stderr
    assert "home of your own server" in server.cli("login", fails=True).stderr
    assert "Where to?" in Host(neighbour.home.parent / "new").cli("connect", fails=True).stderr


def test_the_identity_endpoint_needs_its_secret(neighbours: tuple[Host, Host]) -> None:
    import urllib.error
    import urllib.request

    _, neighbour = neighbours
    url = neighbour.json("env")["IDENTITY_ENDPOINT"] + "?resource=https://management.azure.com"
    for headers, status in (
        ({}, 401),
        ({"X-IDENTITY-HEADER": "guess"}, 401),
        ({"Host": "evil.test"}, 421),
    ):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
        assert raised.value.code == status
