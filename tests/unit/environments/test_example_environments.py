"""Examples and tutorials run where no registry is reached: the host stands in for the images they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidemill.environments.images.rules import USE, host_instead

ROOT = Path(__file__).parents[3]
_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _environments(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from _environments(one)
    elif isinstance(value, dict):
        if isinstance(found := value.get("environment"), dict):
            yield found
        for one in value.values():
            yield from _environments(one)


def _written() -> Iterator[tuple[str, str]]:
    for path in sorted(ROOT.glob("examples/**/*.yml")):
        yield str(path.relative_to(ROOT)), path.read_text()
    for path in sorted(ROOT.glob("docs/tutorials/*.md")):
        for number, block in enumerate(_BLOCK.findall(path.read_text()), 1):
            yield f"{path.relative_to(ROOT)}, block {number}", block


def _named() -> list[Any]:
    """(place, image, has packages) of each environment that names a base image of Azure ML's."""
    return [
        pytest.param(one["image"], "conda_file" in one, id=place)
        for place, text in _written()
        for one in _environments(yaml.safe_load(text))
        if "mcr.microsoft.com/azureml/" in one.get("image", "")
    ]


@pytest.mark.parametrize(("image", "packages"), _named())
def test_the_host_stands_in_for_the_image_of_an_example(image: str, packages: bool) -> None:
    assert host_instead(USE, image, packages), "no registry, no run: give it a conda_file"


def test_the_examples_were_found() -> None:
    places = {param.id for param in _named()}
    assert {"examples/batch-reviews/deployment.yml", "examples/parallel-words/pipeline.yml"} <= places
    assert any(place.startswith("docs/tutorials/batch-endpoints.md") for place in places)
