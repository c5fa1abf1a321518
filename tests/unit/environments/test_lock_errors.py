"""uv's words -> ours. The texts were said by uv 0.13 (and in the frame of 0.5)."""
# ruff: noqa: E501

from __future__ import annotations

import pytest

from tidemill.domain.errors import OutOfSpace
from tidemill.environments.conda import parse_conda
from tidemill.environments.lock import failure, lacks_pip, readable, without_wheel

CONDA = parse_conda(
    "dependencies:\n  - python=3.11\n  - requests=2.32.3\n  - pip:\n    - idna==2.0\n    - scikit-lern==99\n    - six==99\n"
)

CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because requests==2.32.3 depends on idna>=2.5,<4 and you require requests==2.32.*, we can conclude that you require idna>=2.5,<4.
         And because you require idna==2.0, we can conclude that your requirements are unsatisfiable.
"""
OLD_CONFLICT = """\
  × No solution found when resolving dependencies:
  ╰─▶ Because requests==2.32.3 depends on idna>=2.5,<4 and you require requests==2.32.*, we can conclude that you
      require idna>=2.5,<4.
      And because you require idna==2.0, we can conclude that your requirements are unsatisfiable.
"""


@pytest.mark.parametrize("output", [CONFLICT, OLD_CONFLICT])
def test_a_conflict_names_the_packages_and_their_lines(output: str):
    error = failure(output, CONDA.requirements)
    assert error.code == "EnvironmentConflict"
    assert error.message.startswith(
        "No set of versions satisfies requests==2.32.3.* (conda file, line 3:5) and idna==2.0 (conda file, line 5:7). "
        "Because requests==2.32.3 depends on idna>=2.5,<4"
    )
    assert "six" not in error.message


def test_a_missing_package_is_named_with_its_line_and_a_guess():
    output = (
        "error: No solution found when resolving dependencies\n  cause: Because scikit-lern was not found in the "
        "package registry and you require scikit-lern==99, we can conclude that your requirements are unsatisfiable.\n"
    )
    error = failure(output, CONDA.requirements)
    assert error.code == "PackageNotFound"
    assert error.message == (
        "Package 'scikit-lern' (conda file, line 6:7) does not exist on the Python package index. "
        "Did you mean scikit-learn?"
    )


def test_a_missing_package_of_a_package():
    output = "error: No solution found\n  cause: Because gone was not found in the package registry and six==99 depends on gone\n"
    assert "Package 'gone', which another package needs," in failure(output, CONDA.requirements).message


def test_a_version_that_does_not_exist():
    output = (
        "error: No solution found when resolving dependencies\n  cause: Because there is no version of six==99 and you "
        "require six==99, we can conclude that your requirements are unsatisfiable.\n"
    )
    error = failure(output, CONDA.requirements)
    assert error.message.startswith(
        "six==99 (conda file, line 7:7): the Python package index has no such version"
    )


@pytest.mark.parametrize(
    "output",
    [
        "error: Request failed after 3 retries in 7.0s\n  cause: Failed to fetch: http://127.0.0.1:9/simple/six/\n"
        "  cause: client error (Connect)\n",
        "error: No solution found when resolving dependencies\n  cause: Because six was not found in the cache and you "
        "require six==99, we can conclude that your requirements are unsatisfiable.\n\nhint: Packages were unavailable "
        "because the network was disabled.\n",
    ],
)
def test_no_index_is_not_the_users_fault(output: str):
    error = failure(output, CONDA.requirements)
    assert (error.code, error.status) == ("PackageIndexUnreachable", 503)
    assert "UV_INDEX_URL" in error.message


def test_a_line_that_uv_cannot_read():
    output = (
        "error: Couldn't parse requirement in `x/requirements.in` at position 0\n"
        "  cause: Trailing `foo` is not allowed\n         six==99\n            ^^^^^^^^^^\n"
    )
    error = failure(output, CONDA.requirements)
    assert error.message == (
        "'six==99' (conda file, line 7:7) is not a requirement: Trailing `foo` is not allowed."
    )


def test_a_full_disk():
    output = "error: Failed to write to the cache\n  cause: No space left on device (os error 28)\n"
    assert isinstance(failure(output, ()), OutOfSpace)


def test_a_failed_source_build_shows_the_end_of_its_output():
    output = (
        "error: Failed to build `thing==1.0`\n  cause: exit status: 1\n"
        + "noise\n" * 50
        + "fatal: no foo.h\n"
    )
    error = failure(output, ())
    assert error.message.startswith(
        "thing==1.0 has no wheel for this Python and could not be built from source"
    )
    assert error.message.endswith("fatal: no foo.h")
    assert error.message.count("noise") < 20


@pytest.mark.parametrize(
    "printed",
    ["x", "a[", "x.", "1-", "\n", " \n", "Couldn't parse requirement", "Couldn't parse requirement\n\n"],
)
def test_what_a_package_prints_is_read_once(printed: str):
    """Eight million characters of it would take days where each place is read to the end again."""
    said = "error: Failed to build `bad==1.0`\n  cause: The build backend returned an error\n"
    output = readable(said + printed * (8_000_000 // len(printed)) + "\nRuntimeError: no compiler\n")
    error = failure(output, CONDA.requirements)
    assert len(error.message) < 20_000
    assert not lacks_pip(output, ())
    assert without_wheel(output) == "A package has no wheel for this Python,"
    if "parse" not in printed:
        assert error.code == "EnvironmentBuildFailed"
        assert error.message.startswith(
            "bad==1.0 has no wheel for this Python and could not be built from source."
        )
        assert error.message.endswith("\nRuntimeError: no compiler")


def test_what_is_read_has_its_beginning_and_its_end():
    lines = [f"line {number}" for number in range(2000)]
    assert readable("\n\n".join(lines)).split("\n") == lines[:300] + lines[-100:]
