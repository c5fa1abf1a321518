from __future__ import annotations

import contextlib
import string
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.environments import matchspec
from tidemill.environments.conda import parse_conda
from tidemill.environments.requirement import Place, parse_pip


def refused(text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        parse_conda(dedent(text))
    return error.value


def test_a_file_as_azures_examples_write_it():
    parsed = parse_conda(
        dedent("""\
        name: model-env
        channels:
          - conda-forge
        dependencies:
          - python=3.10
          - numpy=1.21
          - pip
          - scikit-learn>=1.0,<2   # a range
          - conda-forge::py-opencv==4.5.1
          - pip:
              - inference-schema[numpy-support]==1.3.0
              - mlflow # comment
        variables:
          OMP_NUM_THREADS: 2
        """)
    )
    assert (parsed.name, parsed.python) == ("model-env", "==3.10.*")
    assert [requirement.text for requirement in parsed.requirements] == [
        "numpy==1.21.*",
        "scikit-learn>=1.0,<2",
        "opencv-python-headless==4.5.1",
        "inference-schema[numpy-support]==1.3.0",
        "mlflow",
    ]
    assert str(parsed.requirements[2]) == (
        "opencv-python-headless==4.5.1 (conda file, line 9:5, written 'conda-forge::py-opencv==4.5.1')"
    )
    assert parsed.variables == (("OMP_NUM_THREADS", "2"),)
    assert (
        "numpy, scikit-learn, opencv-python-headless come from the Python package index" in parsed.notes[-1]
    )


@pytest.mark.parametrize(
    ("conda", "pypi"),
    [
        ("numpy", ""),
        ("numpy=1.21", "==1.21.*"),
        ("numpy=1.21.2", "==1.21.2.*"),
        ("numpy==1.21.2", "==1.21.2"),
        ("numpy 1.21.2", "==1.21.2"),
        ("numpy 1.21.*", "==1.21.*"),
        ("numpy=1.21.*", "==1.21.*"),
        ("numpy=1.21=py39_0", "==1.21.*"),
        ("numpy==1.21.2=py39_0", "==1.21.2"),
        ("numpy 1.21.2 py39_0", "==1.21.2"),
        ("numpy >= 1.20, < 2", ">=1.20,<2"),
        ("numpy>=1.20.*", ">=1.20"),
        ("numpy!=1.20.*", "!=1.20.*"),
        ("numpy~=1.20", "~=1.20"),
        ("numpy=*", ""),
        ("numpy=*=mkl", ""),
        ("numpy[version='>=1.20,<2']", ">=1.20,<2"),
        ('conda-forge/linux-64::numpy[version=1.21.2, build="py39_0"]', "==1.21.2"),
    ],
)
def test_match_specifications(conda: str, pypi: str):
    assert matchspec.parse(conda).specifier == pypi
    assert matchspec.parse(conda).name == "numpy"


def test_builds_are_left_out_and_told():
    assert matchspec.parse("pytorch=1.13=py3.9_cuda11.7").build == "py3.9_cuda11.7"
    parsed = parse_conda("dependencies:\n  - pytorch=1.13=py3.9_cuda11.7\n")
    assert (
        "The build 'py3.9_cuda11.7' of pytorch=1.13=py3.9_cuda11.7 (conda file, line 2:5)" in parsed.notes[0]
    )


@pytest.mark.parametrize(
    ("conda", "pypi"),
    [
        ("pytorch", "torch"),
        ("tensorflow-gpu", "tensorflow"),
        ("pytables", "tables"),
        ("py-xgboost", "xgboost"),
        ("ray-tune=2.9", "ray[tune]==2.9.*"),
        ("opencv", "opencv-python-headless"),
        ("scikit-learn", "scikit-learn"),
    ],
)
def test_names_are_mapped(conda: str, pypi: str):
    assert parse_conda(f"dependencies: ['{conda}']").requirements[0].text == pypi


def test_cuda_comes_with_the_wheels_or_is_refused():
    parsed = parse_conda("dependencies: [pytorch, cudatoolkit=11.7, pytorch-cuda=11.7]")
    assert [requirement.text for requirement in parsed.requirements] == ["torch"]
    assert len([note for note in parsed.notes if "brings its own" in note]) == 2
    assert (
        "'cudatoolkit' is not a Python package: install CUDA"
        in refused("dependencies: [cudatoolkit]").message
    )


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (
            "dependencies:\n  - numpy\n  - gcc=9\n",
            "PackageNotOffered",
            "Conda file, line 3:5: 'gcc' is not a Python",
        ),
        ("dependencies:\n  - r-ggplot2\n", "PackageNotOffered", "line 2:5: 'r-ggplot2'"),
        (
            "name: x\ndependancies:\n  - numpy\n",
            "InvalidCondaFile",
            "line 2:1: unknown key 'dependancies': did you",
        ),
        ("name: x\n", "InvalidCondaFile", "'dependencies' is missing"),
        ("dependencies: numpy\n", "InvalidCondaFile", "line 1:15: 'dependencies' is a list"),
        ("dependencies:\n  - a: [x]\n", "InvalidCondaFile", "line 2:5: 'a' is no entry"),
        (
            "dependencies:\n  - [x]\n",
            "InvalidCondaFile",
            "line 2:5: an entry of 'dependencies' is a single text",
        ),
        (
            "dependencies:\n  - numpy=1.2|1.3\n",
            "InvalidCondaFile",
            "line 2:5: 'numpy=1.2|1.3' has alternatives",
        ),
        ("dependencies:\n  - numpy=latest\n", "InvalidCondaFile", "line 2:5: 'numpy=latest'"),
        (
            "dependencies:\n  - pip:\n    - -r requirements.txt\n",
            "InvalidEnvironment",
            "line 3:7: '-r requirements.txt'",
        ),
        ("dependencies:\n  - pip:\n    - -e .\n", "InvalidEnvironment", "line 3:7: '-e .'"),
        (
            "dependencies:\n  - pip:\n    - ./wheel.whl\n",
            "InvalidEnvironment",
            "line 3:7: './wheel.whl' is a path",
        ),
        ("dependencies:\n  - pip:\n    - --wat x\n", "InvalidEnvironment", "option '--wat x' is not offered"),
        (
            "dependencies:\n  - pip:\n    - six 1.16\n",
            "InvalidEnvironment",
            "'six 1.16' is not a requirement",
        ),
        ("dependencies: [a\nb: c", "InvalidCondaFile", "is not YAML"),
        ("- numpy\n", "InvalidCondaFile", "line 1:1: a conda file is a mapping"),
        ("", "InvalidCondaFile", "a conda file is a mapping"),
    ],
)
def test_complaints_have_line_and_column(text: str, code: str, message: str):
    error = refused(text)
    assert message in error.message
    assert error.code == code
    assert error.target == "properties.condaFile"


def test_pip_options_become_uvs():
    parsed = parse_conda(
        "dependencies:\n- pip:\n  - --extra-index-url=https://x/simple\n  - -f https://y\n  - --pre\n"
    )
    assert parsed.options == (
        *("--extra-index-url", "https://x/simple"),
        *("--find-links", "https://y"),
        *("--prerelease", "allow"),
    )


def test_pip_is_in_every_environment_and_a_pinned_one_is_taken_at_its_word():
    bare = parse_conda("dependencies: [python, pip]")
    assert (bare.notes, bare.requirements) == ((), ())
    assert [r.text for r in parse_conda("dependencies: [pip=21]").requirements] == ["pip==21.*"]
    assert (
        "wheel=0.4 (conda file, line 1:16) is left out" in parse_conda("dependencies: [wheel=0.4]").notes[0]
    )


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=string.ascii_letters + string.digits + "=<>!~*.,|[]' :-_#\n&{}", max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str):
    """No other error may come out, whatever a user types."""
    with contextlib.suppress(InvalidRequest):
        parse_conda("dependencies:\n  - python=3.11\n  - " + text)
        return
    with pytest.raises(InvalidRequest, match=r"^Conda file, line "):
        parse_conda("dependencies:\n  - python=3.11\n  - " + text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts))),
    st.sampled_from(["==", ">=", "<=", ">", "<", "!=", "~="]),
)
def test_plain_ranges_stay_as_they_are(version: str, operator: str):
    assert matchspec.parse(f"x{operator}{version}").specifier == operator + version
    assert matchspec.parse(f"x {operator} {version}").specifier == operator + version


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x @ file:///root/x.whl", "'file:///root/x.whl' is no address"),
        ("x@/root/x.whl", "'/root/x.whl' is no address"),
        ("x @ git+file:///root/x", "is no address"),
        ("x @ git+ssh://git@host/x", "is no address"),
        ("git+ssh://git@host/x", "by https only"),
        ("file:///etc/passwd", "is a path"),
        ("/etc/passwd", "is a path"),
        ("-e .", "editable installs need the job's files"),
        ("-r /etc/passwd", "points to another file"),
        ("--find-links /root/wheels", "does not name an address"),
        ("--index-url file:///root", "does not name an address"),
        ("six\n-r /etc/passwd", "more than one line"),
        ("six\r--find-links=/root", "more than one line"),
        ("six \\", "more than one line"),
        ("x @ https://host/${AZURE_SECRET}/x.whl", r"'\$\{AZURE_SECRET\}' is a variable"),
        ("--index-url https://${TOKEN}@host/simple", r"'\$\{TOKEN\}' is a variable"),
    ],
)
def test_nothing_of_the_server_can_be_named(line: str, says: str):
    with pytest.raises(InvalidRequest, match=says):
        parse_pip([(line, Place("requirements", 1))])


def test_addresses_that_may_be_named():
    lines = [
        "x @ https://host/x-1.0-py3-none-any.whl",
        "git+https://host/x@v1",
        "y[extra]>=1 ; python_version<'4'",
    ]
    assert len(parse_pip([(line, Place("requirements", 1)) for line in lines]).requirements) == 3
