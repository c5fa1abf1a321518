"""The unmodified azure-identity: programs by secret and certificate, people by password and device code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]
TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
PASSWORD = "correct horse battery"

COMMON = """
import json, os, sys
from azure.ai.ml import MLClient
from azure.core.exceptions import ClientAuthenticationError

def workspace(credential):
    group = os.environ["AZURE_RESOURCE_GROUP"]
    return MLClient(credential, os.environ["AZURE_SUBSCRIPTION_ID"], group,
    "main").workspaces.get("main").name

def tried(credential):
    try:
        return workspace(credential)
    except ClientAuthenticationError as error:
        return "refused: " + str(error)

def tokens(credential):  # MSAL uses one client assertion for all of them
    wanted = ("https://management.azure.com", "https://ml.azure.com", "https://storage.azure.com")
    return [bool(credential.get_token(resource + "/.default").token) for resource in wanted]

AT = {"authority": os.environ["AZUREML_DEV_URL_MFE"]}
given = json.load(sys.stdin)
"""

PROGRAMS = """
from azure.identity import CertificateCredential, ClientSecretCredential
id = given["client_id"]
out = {
    "secret": tried(ClientSecretCredential("adfs", id, given["secret"], **AT)),
    "wrong": tried(ClientSecretCredential("adfs", id, "tms_wrong", **AT)),
    "certificate": tried(CertificateCredential("adfs", id, given["certificate"], **AT)),
    "resources": tokens(CertificateCredential("adfs", id, given["certificate"], **AT)),
    "chain": tried(CertificateCredential("adfs", id, given["certificate"], send_certificate_chain=True,
    **AT)), "other": tried(CertificateCredential("adfs", id, given["other"], **AT)),
    "gone": tried(ClientSecretCredential("adfs", id, given["deleted"], **AT)),
}
print("RESULT" + json.dumps(out))
"""

PEOPLE = """
import warnings
warnings.simplefilter("ignore")
from azure.identity import DeviceCodeCredential, UsernamePasswordCredential
id = "a-notebook"
def shown(uri, code, expires):
    print("CODE " + code, flush=True)
out = {
    "password": tried(UsernamePasswordCredential(id, given["user"], given["password"], tenant_id="adfs",
    **AT)), "wrong": tried(UsernamePasswordCredential(id, given["user"], "wrong password",
    tenant_id="adfs", **AT)), "device": tried(DeviceCodeCredential(id, tenant_id="adfs",
    prompt_callback=shown, **AT)), }
print("RESULT" + json.dumps(out))
"""


def cli(server: Any, *words: str, stdin: str = "") -> str:
    argv = [TIDEMILL, "--home", str(server.home), *words]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(python: str, script: str, server: Any) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    return subprocess.Popen(
        [python, "-c", COMMON + script],
        env={**clean, **server.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(text: str, problem: str) -> dict[str, Any]:
    line = next((line for line in text.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, text + problem
    return json.loads(line.removeprefix("RESULT"))


def test_programs_by_secret_and_certificate(server: Any, sdk_python: str, tmp_path: Path) -> None:
    for name in ("nightly", "another"):
        cli(server, "access", "create-principal", name)
        cli(server, "access", "grant", name, "Reader", "--scope", "subscription")
        cli(server, "access", "create-certificate", name, "--out", str(tmp_path / f"{name}.pem"))
    made = json.loads(cli(server, "access", "create-secret", "nightly", "-o", "json"))
    deleted = json.loads(cli(server, "access", "create-secret", "nightly", "-o", "json"))
    cli(server, "access", "delete-credential", "nightly", deleted["id"])
    given = {
        "client_id": made["client_id"],
        "secret": made["secret"],
        "deleted": deleted["secret"],
        "certificate": str(tmp_path / "nightly.pem"),
        "other": str(tmp_path / "another.pem"),
    }
    process = start(sdk_python, PROGRAMS, server)
    found = result(*process.communicate(json.dumps(given), timeout=570))
    assert (found["secret"], found["certificate"], found["chain"]) == ("main", "main", "main")
    assert found["resources"] == [True] * 3
    assert "client secret is wrong" in found["wrong"]
    assert "client secret is wrong" in found["gone"]
    assert "a certificate that this principal does not have" in found["other"]


def test_people_by_password_and_device_code(server: Any, sdk_python: str) -> None:
    cli(server, "access", "create-user", "ann")
    cli(server, "access", "set-password", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    cli(server, "access", "grant", "ann", "Reader", "--scope", "subscription")
    process = start(sdk_python, PEOPLE, server)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"user": "ann", "password": PASSWORD}))
    process.stdin.close()
    process.stdin = None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("CODE "):
            allow(server, line.split()[1])
    found = result(said, process.stderr.read() if process.stderr else "")
    process.wait(60)
    assert found["password"] == "main"
    assert found["device"] == "main"
    assert "The user name or the password is wrong" in found["wrong"]


def allow(server: Any, code: str) -> None:
    """What a person does in a browser that is signed in."""
    base = server.state["addresses"]["http"]
    link = json.loads(cli(server, "portal", "--no-browser", "-o", "json"))["url"]
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    opener.open(link, timeout=60).close()
    form = urlencode({"user_code": code, "answer": "allow"}).encode()
    request = urllib.request.Request(base + "/ui/device", form, {"Origin": base})
    with opener.open(request, timeout=60) as reply:
        assert b"It is signed in" in reply.read()
