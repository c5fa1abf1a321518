from __future__ import annotations

import re

import pytest

from tidemill.catalog.curated import CuratedCatalog
from tidemill.domain.errors import NotFound


@pytest.fixture(scope="module")
def curated() -> CuratedCatalog:
    return CuratedCatalog()


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("azureml://registries/azureml/environments/sklearn-1.5/labels/latest", "sklearn-1.5"),
        ("azureml://registries/azureml/environments/sklearn-1.5/versions/24", "sklearn-1.5"),
        ("azureml://registries/azureml/environments/sklearn-1.5", "sklearn-1.5"),
        ("azureml:AzureML-sklearn-1.5@latest", "sklearn-1.5"),
        ("AzureML-sklearn-1.0-ubuntu20.04-py38-cpu:1", "sklearn-1.0-ubuntu20.04-py38-cpu"),
        ("azureml:AzureML-lightgbm-3.3@latest", "lightgbm-3.3"),
        ("AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu", "lightgbm-3.3"),
        ("azureml:AzureML-tensorflow-2.16-cuda12@latest", "tensorflow-2.16-cuda12"),
        ("AzureML-pytorch-1.10-ubuntu18.04-py38-cuda11-gpu", "acpt-pytorch-2.2-cuda12.1"),
        ("AzureML-acpt-pytorch-2.2-cuda12.1@latest", "acpt-pytorch-2.2-cuda12.1"),
        ("AzureML-ACPT-pytorch-1.13-py38-cuda11.7-gpu", "acpt-pytorch-2.2-cuda12.1"),
        ("AzureML-minimal-ubuntu22.04-py310-cpu-inference", "minimal-ubuntu22.04-py310-cpu-inference"),
        ("minimal-py311-inference", "minimal-py311-inference"),
        ("AzureML-minimal-ubuntu18.04-py37-cpu-inference", "minimal-py312-inference"),
        (
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
            "/environments/AzureML-sklearn-1.5/versions/3",
            "sklearn-1.5",
        ),
    ],
)
def test_names_of_the_examples(curated: CuratedCatalog, reference: str, name: str):
    found = curated.find(reference)
    assert found is not None
    assert found.name == name
    assert found.pip


@pytest.mark.parametrize(
    "reference", ["my-env", "azureml:my-env:1", "lightgbm-99", "azureml://datastores/x/paths/y", ""]
)
def test_other_names_are_not_curated(curated: CuratedCatalog, reference: str):
    assert curated.find(reference) is None


def test_unknown_name_is_refused_with_names_that_exist(curated: CuratedCatalog):
    with pytest.raises(NotFound) as error:
        curated.require("azureml://registries/azureml/environments/sklern-1.5/labels/latest")
    assert "did you mean sklearn-1.5" in error.value.message
    assert all(name in error.value.message for name in curated.names())


def test_version_and_replacement_are_told(curated: CuratedCatalog):
    asked = curated.require("azureml:AzureML-tensorflow-2.7-ubuntu20.04-py38-cuda11-gpu:9")
    assert asked.version == "9"
    (note,) = asked.notes()
    assert "tensorflow-2.7-ubuntu20.04-py38-cuda11-gpu is replaced" in note
    assert "the list of tensorflow-2.16-cuda12" in note


def test_images_of_curated_environments(curated: CuratedCatalog):
    found = curated.find_image("mcr.microsoft.com/azureml/curated/sklearn-1.5:12")
    assert found is not None
    assert found.name == "sklearn-1.5"
    assert curated.find_image("mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest") is None
    assert curated.find_image("library/python:latest") is None


def test_every_entry_answers_to_its_own_name_and_is_well_formed(curated: CuratedCatalog):
    for environment in curated.list():
        for name in (environment.name, environment.azure_name, environment.azure_name + "@latest"):
            found = curated.find(name)
            assert found is not None
            assert found.name == environment.name
        assert curated.find_image(environment.image) is not None
        assert all(re.match(r"^[a-z][a-z0-9-]*([<>=~!,.\d]*)$", line) for line in environment.pip)


def test_a_longer_number_is_another_version():
    curated = CuratedCatalog()
    assert curated.find("azureml://registries/azureml/environments/sklearn-1.55/labels/latest") is None
    assert curated.find("AzureML-lightgbm-32") is None
    assert curated.find("AzureML-sklearn-1.5-ubuntu22.04") is not None
