"""`tidemill model package` and `tidemill package …`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.commands.assets import model as model
from tidemill.cli.commands.compute import confirm
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group, pairs
from tidemill.cli.output import Column, facts_of, key, print_item, print_list
from tidemill.cli.session import Session

_FORMATS = ("oci", "docker-archive", "wheelhouse")  # of cli.packages, which is imported when it is used
package = group("package", "Packages of models: images and wheelhouses that run anywhere.")
_name = click.option("--name", "-n", required=True, help="Name of the package.")
_version = click.option("--version", "-v", required=True, help="Its version.")
_format = click.option(
    "--format", "form", type=click.Choice(_FORMATS), default="oci", help="What it is (default oci)."
)
_UNTOLD = ("timeline", "error", "tags")  # of one package, in a table
_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("version", key("version")),
    Column("state", key("state"), state=True),
    Column("format", key("format")),
    Column("model", key("model"), wide=True),
    Column("environment", key("environment"), wide=True),
    Column("size", key("size"), lambda v, _: text.size(v), right=True),
    Column("created", key("created_at"), text.ago),
)


@command(
    model,
    "package",
    """tidemill model package digits:1 -e serve-digits:1 --code score --entry-script score.py -p digits
    tidemill model package --file blue.yml --format docker-archive -p digits.tar""",
)
@click.argument("given", metavar="[MODEL:VERSION]", required=False, default="")
@click.option("--environment", "-e", default="", help="azureml:NAME:VERSION, or a YAML file of one.")
@click.option("--code", default="", metavar="DIR", help="Folder with the scoring script.")
@click.option("--entry-script", "script", default="", help="The scoring script, below --code.")
@click.option("--file", "-f", "file", metavar="YAML", help="A deployment: all of this as it has it.")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="A variable of the package.")
@click.option("--name", "-n", default="", help="Name of the package (default MODEL-package).")
@click.option("--version", "-v", default="", help="Its version (default the next).")
@_format
@click.option("--download-path", "-p", metavar="PATH", help="Fetch it there: a new folder, or an archive.")
def package_model(
    session: Session,
    given: str,
    environment: str,
    code: str,
    script: str,
    file: str | None,
    variables: tuple[str, ...],
    name: str,
    version: str,
    form: str,
    download_path: str | None,
) -> None:
    """Make a package of a model: with its environment, Python and scoring server, it needs nothing else.

    It is kept in the workspace; as an image it is an environment, too, that a deployment can name.
    """
    from tidemill.cli import packages
    from tidemill.cli.yaml.endpoint_load import load_deployment

    target = Path(download_path).expanduser() if download_path else None
    if target is not None:
        packages.check_target(target, form)
    elif form == packages.ARCHIVE:
        raise CliError("--format docker-archive is a file: name it by --download-path.", USAGE, "UsageError")
    spec = load_deployment(Path(file), (), file) if file else None
    parts = packages.Parts(given, environment, code, script, pairs("--env", variables))
    parts = packages.parts_of(parts, spec)
    packages.check_parts(parts, spec)
    made = packages.begin(session, parts, spec, name, version, form)
    packages.follow(session, *made)
    if target is not None:
        packages.download(session, *made, target, form)
    _print(session, *made)


@command(package, "list", "tidemill package list\ntidemill package list --model-name digits")
@click.option("--model-name", "of", help="Only those of this model: NAME or NAME:VERSION.")
def list_(session: Session, of: str | None) -> None:
    """List the packages of the workspace, newest first."""
    rows = session.client.get(f"{session.native}/packages", {"model": of} if of else None)["value"]
    empty = (
        f"No packages {f'of model {of} ' if of else ''}yet. Make one with: tidemill model package "
        f"{of if of and ':' in of else 'MODEL:VERSION'} --environment NAME:VERSION"
    )
    print_list(session, rows, _COLUMNS, empty)


@command(package, "show", "tidemill package show --name digits-package --version 1")
@_name
@_version
def show(session: Session, name: str, version: str) -> None:
    """Show one package: its layers, and what became of it."""
    _print(session, name, version)


@command(
    package,
    "download",
    """tidemill package download --name digits-package --version 1 -p digits
    tidemill package download --name digits-package --version 1 --format docker-archive -p digits.tar""",
)
@_name
@_version
@_format
@click.option("--download-path", "-p", required=True, metavar="PATH", help="A new folder, or an archive.")
def download(session: Session, name: str, version: str, form: str, download_path: str) -> None:
    """Fetch a package: an image as a folder (OCI) or an archive (docker), a wheelhouse as it is."""
    from tidemill.cli import packages

    target = Path(download_path).expanduser()
    packages.check_target(target, form)
    found = session.client.get(packages.path_of(session, name, version))
    if (form == packages.WHEELHOUSE) != (found["format"] == packages.WHEELHOUSE):
        raise CliError(
            f"Package {name}:{version} is of format {found['format']}: give --format {found['format']}.",
            USAGE,
            "UsageError",
        )
    packages.download(session, name, version, target, form)
    session.note(f"{target} is package {name}:{version}.")


@command(package, "delete", "tidemill package delete --name digits-package --version 1")
@_name
@_version
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(session: Session, name: str, version: str, yes: bool) -> None:
    """Delete a package, with the environment version that it is."""
    from tidemill.cli import packages

    confirm(f"Delete package {name}:{version}?", yes)
    session.client.call("DELETE", packages.path_of(session, name, version))
    session.note(f"Package {name}:{version} is deleted.")


def _print(session: Session, name: str, version: str) -> None:
    from tidemill.cli import packages

    found: dict[str, Any] = session.client.get(packages.path_of(session, name, version))
    print_item(session, found, _facts(found))


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The layers of an image stand a line each."""
    layers = [
        f"{layer['digest'].removeprefix('sha256:')[:12]}  {text.size(layer['size']):>10}  {layer['about']}"
        for layer in found["layers"]
    ]
    shown = {**found, "layers": "\n".join(layers), "size": text.size(found["size"])}
    return facts_of({name: value for name, value in shown.items() if name not in _UNTOLD})
