"""The body of a package request, read or refused with the place."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.domain.errors import TidemillError
from tidemill.domain.serving.packaging import WHEELHOUSE, PackageSpec, read_package
from tidemill.environments.images.reference import PACKAGE, parse_reference

WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


def read(**body: Any) -> PackageSpec:
    return read_package("digits", "3", {"targetEnvironmentId": "packed", **body})


def test_what_the_sdk_sends_is_read() -> None:
    """As `_model_operations.package` of azure-ai-ml writes it."""
    code = {"codeId": f"azureml:/{WORKSPACE}/codes/c/versions/1", "scoringScript": "score.py"}
    found = read(
        targetEnvironmentId="azureml://locations/eastus/workspaces/guid-1/environments/packed/versions/7",
        baseEnvironmentSource={
            "baseEnvironmentSourceType": "EnvironmentAsset",
            "resourceId": f"azureml:/{WORKSPACE}/environments/e/versions/1",
        },
        inferencingServer={"serverType": "AzureMLOnline", "codeConfiguration": code},
        environmentVariables={"A": "1"},
        modelConfiguration={"mode": "copy", "mountPath": "/var/models/"},
        tags={"team": "a"},
    )
    assert found == PackageSpec(
        "azureml:digits:3",
        "packed",
        "7",
        f"{WORKSPACE}/environments/e/versions/1",
        f"{WORKSPACE}/codes/c/versions/1",
        "score.py",
        (("A", "1"),),
        (("team", "a"),),
        "var/models",
    )


@pytest.mark.parametrize(
    ("given", "name", "version"),
    [
        ("packed", "packed", ""),
        ("packed:2", "packed", "2"),
        ("azureml:packed:2", "packed", "2"),
        ("azureml://locations/l/workspaces/w/environments/packed", "packed", ""),
        (f"{WORKSPACE}/environments/packed/versions/v1.0", "packed", "v1.0"),
    ],
)
def test_the_target_is_named_in_any_form(given: str, name: str, version: str) -> None:
    found = read(targetEnvironmentId=given)
    assert (found.name, found.version) == (name, version)


def test_the_target_of_deployments_that_package() -> None:
    found = read_package("digits", "3", {"targetEnvironmentName": "packaged-env"})
    assert (found.name, found.format) == ("packaged-env", "oci")
    assert read(format="wheelhouse").format == WHEELHOUSE


@pytest.mark.parametrize(
    ("body", "target", "said"),
    [
        ({"targetEnvironmentId": ""}, "targetEnvironmentId", "does not name an environment"),
        ({"targetEnvironmentId": "a b"}, "name", "is not valid"),
        ({"inputs": [{}]}, "inputs", "nothing besides"),
        (
            {"inferencingServer": {"serverType": "AzureMLBatch"}},
            "inferencingServer.serverType",
            "AzureMLBatch",
        ),
        ({"inferencingServer": {"serverType": "Custom"}}, "inferencingServer.serverType", "is Custom"),
        ({"inferencingServer": {"serverType": "Ray"}}, "inferencingServer.serverType", "is not known"),
        (
            {"baseEnvironmentSource": {"baseEnvironmentSourceType": "Dockerfile"}},
            "baseEnvironmentSource.baseEnvironmentSourceType",
            "registered environment",
        ),
        ({"modelConfiguration": {"mode": "download"}}, "modelConfiguration.mode", "brings its model along"),
        ({"modelConfiguration": {"mountPath": "/a/../b"}}, "modelConfiguration.mountPath", "without '..'"),
        ({"modelConfiguration": {"mountPath": "/"}}, "modelConfiguration.mountPath", "absolute path"),
        ({"environmentVariables": {"K": "${{secrets.KEY}}"}}, "environmentVariables", "no secret"),
        (
            {"environmentVariables": {"AZUREML_SERVER_PORT": "80"}},
            "environmentVariables",
            "where the package",
        ),
        ({"environmentVariables": {"=": ""}}, "environmentVariables", "is not valid"),
        ({"format": "zip"}, "format", "is not known"),
        (
            {"inferencingServer": {"codeConfiguration": {"codeId": "c"}}},
            "inferencingServer.codeConfiguration.scoringScript",
            "no scoringScript",
        ),
        (
            {"inferencingServer": {"codeConfiguration": {"codeId": "c", "scoringScript": "../x.py"}}},
            "inferencingServer.codeConfiguration.scoringScript",
            "below the code folder",
        ),
    ],
)
def test_what_is_refused(body: dict[str, Any], target: str, said: str) -> None:
    with pytest.raises(TidemillError) as caught:
        read(**body)
    assert caught.value.target == target
    assert said in caught.value.message


def test_packages_as_images() -> None:
    found = parse_reference("package://digits-Packed:1")
    assert (found.transport, found.repository, found.tag) == (PACKAGE, "digits-Packed", "1")
    assert found.canonical == "package://digits-Packed:1"
    there = parse_reference("package://main/digits:2")
    assert (there.registry, there.repository, there.canonical) == (
        "main",
        "digits",
        "package://main/digits:2",
    )
    assert parse_reference("package:1").canonical == "docker.io/library/package:1"  # Docker Hub's
    for wrong in (
        "package://digits",
        "package://:1",
        "package:///digits:1",
        "package://a/b/c:1",
        "package://../x:1",
    ):
        with pytest.raises(TidemillError, match="names no package"):
            parse_reference(wrong)
