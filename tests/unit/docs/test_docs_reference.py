"""Generated pages are current; tables agree with the code they describe."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_pages import DOCS, ROOT, first_column, section

from tidemill.cli.yaml import schemas

SOURCE = ROOT / "src" / "tidemill"
DEPENDENCIES = DOCS / "dependencies.md"
JOB = DOCS / "reference" / "job-yaml.md"
# Distribution -> module, where they differ; what only an option of another package asks for.
MODULES = {"argon2-cffi": "argon2", "pyyaml": "yaml", "nvidia-ml-py": "pynvml"}
ASKED_FOR_BY_NAME = {"httptools": "uvicorn.protocols.http.httptools_impl"}


@pytest.mark.parametrize("name", ["cli", "rest"])
def test_reference_is_current(name: str) -> None:
    script = ROOT / "scripts" / f"build_{name}_reference.py"
    made = runpy.run_path(str(script))["text"]()
    page = DOCS / "reference" / f"{name}.md"
    assert page.read_text("utf-8") == made, f"run: .venv/bin/python scripts/build_{name}_reference.py"


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements}


def test_dependencies_are_documented() -> None:
    given = project()
    optional = given["project"]["optional-dependencies"]
    assert set(first_column(section(DEPENDENCIES, "Needed to run"))) == names(
        given["project"]["dependencies"]
    )
    extras = names(optional["postgres"]) | names(optional["gpu"])
    assert set(first_column(section(DEPENDENCIES, "Extras"))) == extras
    tools = section(DEPENDENCIES, "Needed to work on Tidemill (extra `dev`)")
    assert set(first_column(tools)) | extras >= names(optional["dev"])
    assert set(first_column(tools)) <= names(optional["dev"])
    assert set(first_column(section(DEPENDENCIES, "Build"))) == names(given["build-system"]["requires"])


SCORING = SOURCE / "serving" / "scoring"


def test_dependencies_are_imported_as_documented() -> None:
    """Imports have their dependency; a dependency is imported, or its row says that it is not."""
    imported = set(_imports())
    dependencies = names(project()["project"]["dependencies"])
    optional = project()["project"]["optional-dependencies"]
    all_names = dependencies | names(optional["postgres"]) | names(optional["gpu"])
    known = {MODULES.get(name, name) for name in all_names}
    assert not (stray := imported - known - set(sys.stdlib_module_names) - {"tidemill"}), stray
    text = section(DEPENDENCIES, "Needed to run")
    unused = set(re.findall(r"^\| `([^`]+)` \| Declared, not imported", text, re.MULTILINE))
    by_name = {name for name, words in ASKED_FOR_BY_NAME.items() if _says(words)}
    used = {name for name in dependencies if MODULES.get(name, name) in imported} | by_name
    assert dependencies - used == unused


def test_what_the_scoring_server_finds_in_the_users_environment_is_documented() -> None:
    """It runs there: nothing of these is a dependency of ours."""
    text = section(DEPENDENCIES, "In the user's environment")
    documented = {name.replace("-", "_") for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)}
    imported = set(_imports(SCORING)) - set(sys.stdlib_module_names)
    assert {MODULES.get(name, name) for name in documented} == imported


def _imports(folder: Path = SOURCE) -> Iterator[str]:
    """Of the scoring server only when it is `folder`."""
    for file in folder.rglob("*.py"):
        if folder == SOURCE and SCORING in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def _says(words: str) -> bool:
    return any(words in file.read_text("utf-8") for file in SOURCE.rglob("*.py"))


def keys(record: Any) -> set[str]:
    return {name for name, field in record.fields.items() if not field.read_only}


@pytest.mark.parametrize(
    ("title", "record"),
    [
        ("The keys of a command job", schemas.COMMAND_JOB),
        ("An environment inline", schemas.INLINE_ENVIRONMENT),
        ("inputs.NAME", schemas.INPUT),
        ("outputs.NAME", schemas.OUTPUT),
        ("resources", schemas.RESOURCES),
    ],
)
def test_job_keys_are_documented(title: str, record: Any) -> None:
    text = section(JOB, title)
    if title.startswith("The keys"):
        text = text.partition("\n## ")[0]
    assert set(first_column(text)) == keys(record)


def test_distributions_are_documented() -> None:
    text = section(JOB, "distribution")
    assert set(first_column(text)) == set(schemas.DISTRIBUTION.variants)
    for kind, record in schemas.DISTRIBUTION.variants.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{kind}`"))
        assert not (missing := {key for key in keys(record) - {"type"} if f"`{key}`" not in row}), missing


def test_migrations_are_described() -> None:
    """CONTRIBUTING tells how the DDL files are made; the module that makes them says the same."""
    assert (SOURCE / "store" / "schema_sqlite.sql").exists()
    assert "schema_sqlite.sql" in (ROOT / "CONTRIBUTING.md").read_text()


def test_modules_named_in_the_docs_exist() -> None:
    for page in (DOCS / "architecture.md", DOCS / "dependencies.md", ROOT / "CONTRIBUTING.md"):
        for name in re.findall(r"`([a-z_]+(?:/[a-z_0-9]+)*\.(?:py|toml|sql))`", page.read_text("utf-8")):
            places = (
                ROOT / name,
                SOURCE / name,
                DOCS / name,
                *SOURCE.glob(f"*/{name}"),
                *SOURCE.glob(f"*/*/{name}"),
            )
            assert any(Path(place).exists() for place in places), f"{page.name}: {name}"


def test_the_page_of_the_scoring_server_has_its_variables() -> None:
    """Those that settings.py reads, and their defaults where those are plain."""
    source = (SCORING / "settings.py").read_text("utf-8")
    read = set(re.findall(r'(?:environ\.get\(|_number\(environ, )"([A-Z_]+)"', source))
    read |= {name for name in re.findall(r'"([A-Z_]+)"', source) if name.startswith("AZUREML_")}
    text = section(DOCS / "serving.md", "Variables")
    assert set(re.findall(r"`([A-Z][A-Z_]{5,})`", text)) - {"AML_APP_ROOT"} == read - {"AML_APP_ROOT"}
    defaults = dict(re.findall(r'_number\(environ, "([A-Z_]+)", ([0-9_<> ]+),', source))
    for name, value in defaults.items():
        shown = re.search(rf"\| `{name}` \| ([0-9]+) \|", text)
        assert shown, name
        low, _, shift = value.replace("_", "").partition("<<")
        assert int(shown[1]) == int(low) << int(shift or 0), name
