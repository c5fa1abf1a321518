"""What of a Dockerfile a local deployment can do without Docker."""

from __future__ import annotations

import pytest

from tidemill.cli.local.dockerfile import Recipe, read
from tidemill.domain.errors import InvalidRequest

WRITTEN = """FROM mcr.microsoft.com/azureml/base:1
RUN mkdir -p /var/azureml-app/
WORKDIR /var/azureml-app/
COPY conda.yml /var/azureml-app/
RUN conda env create -n inf-conda-env --file conda.yml
CMD ["conda", "run", "--no-capture-output", "-n", "inf-conda-env", "runsvdir", "/var/runit"]
"""


def test_what_the_sdk_writes() -> None:
    assert read(WRITTEN) == Recipe("mcr.microsoft.com/azureml/base:1", "conda.yml")


def test_packages_and_variables() -> None:
    text = """
# a comment
FROM --platform=linux/amd64 python:3.11 AS base
ENV A=1 B="two words"
ENV C three
RUN mkdir /x && \\
    pip install --no-cache-dir 'numpy<3' pandas
RUN conda run -n inf-conda-env pip install debugpy
"""
    recipe = read(text)
    assert recipe.image == "python:3.11"
    assert recipe.pip == ("numpy<3", "pandas", "debugpy")
    assert dict(recipe.variables) == {"A": "1", "B": "two words", "C": "three"}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("RUN apt-get update", "line 2: `RUN apt-get update`"),
        ("RUN mkdir /x && curl http://x", "line 2: `RUN mkdir /x && curl http://x`"),
        ("RUN pip install -r requirements.txt", "line 2: `RUN pip install -r requirements.txt`"),
        ("RUN echo 'open", "line 2"),
        ("ADD . /code", "line 2: `ADD . /code`"),
        ("CMD python server.py", "line 2: `CMD python server.py`"),
        ("FROM second", "line 2: `FROM second`"),
        ("COPY a b c/", "line 2: `COPY a b c/`"),
    ],
)
def test_what_needs_a_real_image_is_named_by_its_line(line: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match="real image") as raised:
        read(f"FROM x\n{line}\n")
    assert named in raised.value.message


def test_a_dockerfile_without_an_image() -> None:
    with pytest.raises(InvalidRequest, match="no FROM"):
        read("RUN mkdir /x\n")
