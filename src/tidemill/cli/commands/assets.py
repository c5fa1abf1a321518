"""`tidemill environment | data | model …`: versioned assets share their commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tidemill.cli import submit, upload
from tidemill.cli.arm import entity
from tidemill.cli.commands.compute import parse_tags
from tidemill.cli.commands.registry import registry_id
from tidemill.cli.errors import NOT_FOUND, USAGE, CliError, did_you_mean
from tidemill.cli.framework import Group, command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.text import ago, uri
from tidemill.cli.urls import segment
from tidemill.cli.yaml import load, references, to_arm
from tidemill.cli.yaml.load import Spec
from tidemill.cli.yaml.pipeline_load import load_component
from tidemill.domain.units import human_bytes, plural

WORKSPACE_API = "2024-10-01-preview"
_REGISTRY = click.option("--registry-name", help="Of a registry instead of the workspace.")


@dataclass(frozen=True, slots=True)
class Kind:
    """`segment` is ARM's; `flags` are options of `create` besides the common ones."""

    name: str
    segment: str
    api: str
    load: Callable[..., Spec]
    body: Callable[[Session, Spec], dict[str, Any]]
    columns: tuple[Column, ...]
    flags: tuple[tuple[str, str], ...]
    example: str
    downloaded: bool = False


def _environment_body(session: Session, spec: Spec) -> dict[str, Any]:
    return submit.environment_body(session, spec, spec.data)[0]


def _data_body(session: Session, spec: Spec) -> dict[str, Any]:
    kind = references.default_type(spec.document, spec.data)
    return to_arm.data_version({**spec.data, "type": kind}, _uri(session, spec, kind))


def _model_body(session: Session, spec: Spec) -> dict[str, Any]:
    return to_arm.model_version(spec.data, _uri(session, spec, ""))


def _uri(session: Session, spec: Spec, kind: str) -> str:
    path = spec.data["path"]
    if not references.is_local(path):
        return path
    store = (spec.data.get("datastore") or upload.DEFAULT_STORE).removeprefix("azureml:")
    return upload.upload_path(session, upload.open_store(session, store), spec.path(path), kind)


def _component_body(session: Session, spec: Spec) -> dict[str, Any]:
    from tidemill.cli.pipelines import component_version

    return component_version(session, spec)


_WHEN = Column("created", key("created_at"), ago)
_ABOUT = Column("description", key("description"), wide=True)

KINDS = (
    Kind(
        "environment",
        "environments",
        "2023-04-01-preview",
        load.load_environment,
        _environment_body,
        (Column("image", key("image"), wide=True), _WHEN, _ABOUT),
        (("image", "Image."), ("conda-file", "Conda file."), ("os-type", "linux or windows.")),
        "tidemill environment create --name sklearn --image python:3.11 --conda-file conda.yml",
    ),
    Kind(
        "data",
        "data",
        "2023-04-01-preview",
        load.load_data,
        _data_body,
        (Column("type", key("type")), Column("path", key("path"), uri, wide=True), _WHEN, _ABOUT),
        (("path", "Local path, URL or azureml:// URI."), ("type", "uri_file, uri_folder or mltable.")),
        "tidemill data create --name digits --path ./digits --type uri_folder",
    ),
    Kind(
        "model",
        "models",
        "2023-08-01-preview",
        load.load_model,
        _model_body,
        (
            Column("type", key("type")),
            Column("stage", key("stage")),
            Column("aliases", key("aliases"), lambda held, _: " ".join(held or ())),
            Column("path", key("path"), uri, wide=True),
            _WHEN,
            _ABOUT,
        ),
        (
            ("path", "Local path or azureml:// URI, a job's output too."),
            ("type", "custom_model, mlflow_model, …"),
        ),
        "tidemill model create --name digits --path azureml://jobs/JOB/outputs/model --type mlflow_model",
        downloaded=True,
    ),
    Kind(
        "component",
        "components",
        "2024-01-01-preview",
        load_component,
        _component_body,
        (Column("type", lambda item: (item.get("component_spec") or {}).get("type")), _WHEN, _ABOUT),
        (),
        "tidemill component create --file train.yml",
    ),
)


def _make(kind: Kind) -> Group:
    made = group(kind.name, f"{kind.name.capitalize()} assets and their versions.")
    _make_create(made, kind)
    _make_list(made, kind)
    _make_show(made, kind)
    _make_update(made, kind)
    _make_archive(made, kind, True)
    _make_archive(made, kind, False)
    _make_share(made, kind)
    if kind.downloaded:
        _make_download(made, kind)
    return made


def _article(kind: Kind) -> str:
    return ("an " if kind.name[0] in "aeiou" else "a ") + kind.name


def _make_create(made: Group, kind: Kind) -> None:
    def create(session: Session, file: str | None, settings: tuple[str, ...], **flags: Any) -> None:
        tags = parse_tags(flags.pop("tags"))
        if file:
            extra = tuple(f"{k}={v}" for k, v in flags.items() if v is not None)
            spec = kind.load(Path(file), settings + extra, file)
        else:
            if not flags["name"] or not kind.flags:
                raise CliError(
                    "Give --name NAME or --file YAML." if kind.flags else "Give --file YAML.",
                    USAGE,
                    "UsageError",
                )
            spec = load.from_flags(kind.name, {**flags, "tags": tags})
        print_item(session, entity(put(session, kind, spec)))

    create.__doc__ = f"Create a version of {_article(kind)} asset; without --version, the next one."
    options = [
        click.option("--file", "-f", "file", metavar="YAML", help="The asset, in Azure's v2 YAML."),
        click.option("--name", "-n", help="Name."),
        click.option("--version", "-v", help="Version."),
        click.option("--description", help="Description."),
        click.option("--tags", multiple=True, metavar="K=V", help="Tags; repeatable."),
        click.option(
            "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file."
        ),
        *(click.option(f"--{flag}", help=about) for flag, about in kind.flags),
    ]
    command(made, "create", kind.example)(_with(create, options))


def put(session: Session, kind: Kind, spec: Spec) -> dict[str, Any]:
    """Makes the version, by its own number or the next one. -> ARM's answer."""
    name = spec.data["name"]
    body = kind.body(session, spec)
    version = spec.data.get("version") or _next_version(session, kind, name)
    path = f"{_container(session, kind, name)}/versions/{segment(version)}"
    return session.client.call("PUT", path, body, {"api-version": kind.api})


def _make_list(made: Group, kind: Kind) -> None:
    def list_(
        session: Session,
        name: str | None,
        include_archived: bool,
        archived_only: bool,
        registry_name: str | None,
    ) -> None:
        view = "All" if include_archived else "ArchivedOnly" if archived_only else "ActiveOnly"
        base = f"{_scope(session, registry_name)}/{kind.segment}"
        path = f"{base}/{segment(name)}/versions" if name else base
        found = session.client.pages(path, {"api-version": kind.api, "listViewType": view})
        rows = [entity(item) for item in found]
        if name:
            aliases = _aliases(session, kind, f"{base}/{segment(name)}")
            rows = [_with_aliases(row, aliases) for row in rows]
            columns = (
                Column("name", key("name"), wide=True),
                Column("version", key("version")),
                *kind.columns,
            )
        else:
            columns = (
                Column("name", key("name"), wide=True),
                Column("latest", key("latest_version")),
                _WHEN,
                _ABOUT,
            )
        print_list(session, rows, columns, f"Nothing here yet. For example: {kind.example}")

    list_.__doc__ = f"List {kind.name} assets; with --name, the versions of one."
    options = [
        click.option("--name", "-n", help="List the versions of this one."),
        click.option("--include-archived", is_flag=True, help="Archived ones too."),
        click.option("--archived-only", is_flag=True, help="Only archived ones."),
        _REGISTRY,
    ]
    command(made, "list", f"tidemill {kind.name} list\ntidemill {kind.name} list --name NAME")(
        _with(list_, options)
    )


def _make_show(made: Group, kind: Kind) -> None:
    def show(
        session: Session, name: str, version: str | None, label: str | None, registry_name: str | None
    ) -> None:
        if label not in (None, "latest"):
            raise CliError(f"--label {label}: the only label offered is latest.", USAGE, "UsageError")
        base = f"{_scope(session, registry_name)}/{kind.segment}"
        found = version or _latest(session, kind, f"{base}/{segment(name)}")
        if not found:
            listed = session.client.find(base, {"api-version": kind.api})
            hint = did_you_mean(name, [item["name"] for item in (listed or {}).get("value") or []])
            raise CliError(
                f"There is no {kind.name} asset {name!r} in "
                f"{f'registry {registry_name}' if registry_name else f'workspace {session.scope[2]}'}."
                f"{hint or f' See: tidemill {kind.name} list'}",
                NOT_FOUND,
                "ResourceNotFound",
            )
        path = f"{base}/{segment(name)}/versions/{segment(found)}"
        shown = entity(session.client.get(path, {"api-version": kind.api}))
        print_item(session, _with_aliases(shown, _aliases(session, kind, f"{base}/{segment(name)}")))

    show.__doc__ = "Show one version; without --version, the latest."
    options = [
        click.option("--name", "-n", required=True, help="Name."),
        click.option("--version", "-v", help="Version."),
        click.option("--label", "-l", help="latest."),
        _REGISTRY,
    ]
    command(made, "show", f"tidemill {kind.name} show --name NAME --version 1")(_with(show, options))


def _make_update(made: Group, kind: Kind) -> None:
    changeable = ("description", "stage") if kind.name == "model" else ("description",)

    def update(session: Session, name: str, version: str | None, settings: tuple[str, ...]) -> None:
        path = _container(session, kind, name) + (f"/versions/{segment(version)}" if version else "")
        current = session.client.get(path, {"api-version": kind.api})
        properties: dict[str, Any] = dict(current.get("properties") or {})
        properties["tags"] = dict(properties.get("tags") or {})
        for setting in settings:
            field, equals, value = setting.partition("=")
            if equals and field in changeable and (version or field != "stage"):
                properties[field] = value
            elif equals and (tag := field.removeprefix("tags.")) not in ("", field):
                properties["tags"][tag] = value
            else:
                words = ", ".join([*changeable, "tags.NAME"])
                raise CliError(
                    f"--set {setting}: what changes of {_article(kind)} asset is {words}"
                    f"{'' if version else ' (a stage with --version)' * (kind.name == 'model')}.",
                    USAGE,
                    "UsageError",
                )
        changed = session.client.call("PUT", path, {"properties": properties}, {"api-version": kind.api})
        print_item(session, entity(changed))

    words = ", stage or tags" if kind.name == "model" else " or tags"
    update.__doc__ = f"Change description{words} of a version; without --version, of the name."
    options = [
        click.option("--name", "-n", required=True, help="Name."),
        click.option("--version", "-v", help="Version."),
        click.option(
            "--set", "settings", multiple=True, required=True, metavar="KEY=VALUE", help="Repeatable."
        ),
    ]
    example = f"tidemill {kind.name} update --name NAME --version 1 --set tags.team=vision"
    command(made, "update", example)(_with(update, options))


def _make_archive(made: Group, kind: Kind, archived: bool) -> None:
    word = "archive" if archived else "restore"

    def change(session: Session, name: str, version: str | None) -> None:
        path = _container(session, kind, name) + (f"/versions/{segment(version)}" if version else "")
        current = session.client.get(path, {"api-version": kind.api})
        properties = {**(current.get("properties") or {}), "isArchived": archived}
        changed = session.client.call("PUT", path, {"properties": properties}, {"api-version": kind.api})
        session.note(f"{name}{':' + version if version else ''} is {word}d.")
        for warning in changed.get("warnings") or ():
            session.note(f"Note: {warning}")

    change.__doc__ = "Hide it from lists." if archived else "Show it in lists again."
    options = [
        click.option("--name", "-n", required=True, help="Name."),
        click.option("--version", "-v", help="Only this version."),
    ]
    command(made, word, f"tidemill {kind.name} {word} --name NAME --version 1")(_with(change, options))


def _make_share(made: Group, kind: Kind) -> None:
    def share(
        session: Session,
        name: str,
        version: str,
        registry_name: str,
        share_with_name: str | None,
        share_with_version: str | None,
    ) -> None:
        workspace = session.client.get(session.workspace_id(), {"api-version": WORKSPACE_API})
        where = (
            f"azureml://locations/{workspace['location']}/workspaces/{workspace['properties']['workspaceId']}"
        )
        there, number = share_with_name or name, share_with_version or version
        given = {
            "sourceAssetId": f"{where}/{kind.segment}/{name}/versions/{version}",
            "destinationName": there,
            "destinationVersion": number,
        }
        registry = _scope(session, registry_name)
        session.client.begin("POST", f"{registry}/import", {"properties": given}, {"api-version": kind.api})
        path = f"{registry}/{kind.segment}/{segment(there)}/versions/{segment(number)}"
        print_item(session, entity(session.client.get(path, {"api-version": kind.api})))

    share.__doc__ = f"Share {_article(kind)} asset with a registry, for other workspaces to use."
    options = [
        click.option("--name", "-n", required=True, help="Name."),
        click.option("--version", "-v", required=True, help="Version."),
        click.option("--registry-name", required=True, help="The registry."),
        click.option("--share-with-name", help="Its name there (default: the same)."),
        click.option("--share-with-version", help="Its version there (default: the same)."),
    ]
    example = f"tidemill {kind.name} share --name NAME --version 1 --registry-name shared"
    command(made, "share", example)(_with(share, options))


def _make_download(made: Group, kind: Kind) -> None:
    def download(session: Session, name: str, version: str, download_path: str) -> None:
        from tidemill.cli.download import fetch, part_of_model

        path = f"{_container(session, kind, name)}/versions/{segment(version)}"
        found = session.client.get(path, {"api-version": kind.api})["properties"]
        part = part_of_model(name, version, str(found.get("modelUri") or ""))
        target = Path(download_path).expanduser()
        files, size = fetch(session, part, target)
        session.note(f"{plural(files, 'file')}, {human_bytes(size)}, in {target / part.folder}.")

    download.__doc__ = f"Fetch the files of {_article(kind)}, into a folder of its name."
    options = [
        click.option("--name", "-n", required=True, help="Name."),
        click.option("--version", "-v", required=True, help="Version."),
        click.option("--download-path", "-p", default=".", help="Folder to write to (default: this one)."),
    ]
    example = f"tidemill {kind.name} download --name NAME --version 1 --download-path results"
    command(made, "download", example)(_with(download, options))


def _with(function: Callable[..., Any], options: list[Any]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def _scope(session: Session, registry: str | None) -> str:
    return registry_id(session, registry) if registry else session.workspace_id()


def _latest(session: Session, kind: Kind, container: str) -> str:
    query: dict[str, str | int] = {"api-version": kind.api, "$orderBy": "createdtime desc", "$top": "1"}
    found = session.client.find(f"{container}/versions", query)
    newest = (found or {}).get("value") or []
    return str(newest[0]["name"]) if newest else ""


def _container(session: Session, kind: Kind, name: str) -> str:
    return f"{session.workspace_id()}/{kind.segment}/{segment(name)}"


def _aliases(session: Session, kind: Kind, container: str) -> dict[str, str]:
    """Alias -> version: models have them, by MLflow."""
    if kind.segment != "models":
        return {}
    found = session.client.find(container, {"api-version": kind.api})
    return ((found or {}).get("properties") or {}).get("aliases") or {}


def _with_aliases(version: dict[str, Any], aliases: dict[str, str]) -> dict[str, Any]:
    held = sorted(alias for alias, of in aliases.items() if of == version.get("version"))
    return {**version, "aliases": held} if held else version


def _next_version(session: Session, kind: Kind, name: str) -> str:
    container = session.client.find(_container(session, kind, name), {"api-version": kind.api})
    return str(((container or {}).get("properties") or {}).get("nextVersion") or "1")


environment, data, model, component = (_make(kind) for kind in KINDS)
