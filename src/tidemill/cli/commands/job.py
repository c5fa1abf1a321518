"""`tidemill job …`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import INTERRUPTED, OK, USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, fact_lines, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

JOBS_API = "2024-01-01-preview"
CANCEL_API = "2023-04-01-preview"
HISTORY_API = "v1.0"

job = group("job", "Submit, follow, stop and fetch jobs.")
_name = click.option("--name", "-n", required=True, help="Name of the job.")
_keep = click.option(
    "--keep-on-failure", metavar="30m", help="When it fails, its nodes stay for so long: tidemill ssh JOB."
)

_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column(
        "display name",
        lambda j: j.get("display_name") if j.get("display_name") != j.get("name") else "",
        wide=True,
    ),
    Column("experiment", key("experiment"), wide=True),
    Column("status", key("status"), state=True),
    Column("compute", key("compute")),
    Column("submitted", key("created_at"), text.ago),
    Column("took", key("duration_s"), lambda v, now: text.duration(v), right=True),
    Column("price", key("cost_usd"), lambda v, now: text.money(v), right=True),
)


@command(
    job,
    "create",
    """tidemill job create --file job.yml --stream
    tidemill job create -f job.yml --set inputs.epochs=5 --set compute=azureml:gpu-cluster""",
)
@click.option("--file", "-f", "file", required=True, metavar="YAML", help="The job, in Azure's v2 YAML.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
@click.option("--name", "-n", help="Name of the job; else the file's, else a new one.")
@_keep
@click.option("--stream", is_flag=True, help="Follow it until it ends; exit code 1 when it fails.")
@click.option("--web", is_flag=True, help="Open its page.")
def create(
    session: Session,
    file: str,
    settings: tuple[str, ...],
    name: str | None,
    keep_on_failure: str | None,
    stream: bool,
    web: bool,
) -> int:
    """Submit a job."""
    from tidemill.cli.submit import keeping, submit
    from tidemill.cli.yaml.load import load_job

    spec = keeping(load_job(Path(file), settings, file), keep_on_failure)
    return tell_created(session, submit(session, spec, name), stream, web)


def tell_created(session: Session, created: dict[str, Any], stream: bool, web: bool) -> int:
    made = created["name"]
    page = _page(created)
    if web:
        _open(session, page)
    if stream:
        return follow(session, made)
    if session.output == "table":
        properties = created.get("properties", {})
        facts = [("job", made), ("status", properties.get("status", "")), ("page", page)]
        for line in fact_lines(facts):
            click.echo(line)
        session.note(f"Follow it with: tidemill job stream --name {made}{session.home_flag}")
    else:
        print_item(session, _native(session, made))
    return OK


@command(job, "list", "tidemill job list --state Running --max-results 20")
@click.option("--max-results", "-r", type=Whole(1), default=50, show_default=True, help="At most so many.")
@click.option("--all-results", is_flag=True, help="Every job.")
@click.option("--state", help="Only jobs in this state, for example Running or Failed.")
@click.option("--parent-job-name", "--parent", "parent", help="Only what this job started: steps, trials.")
@click.option("--include-archived", is_flag=True, help="Archived jobs too.")
@click.option("--archived-only", is_flag=True, help="Only archived jobs.")
def list_(
    session: Session,
    max_results: int,
    all_results: bool,
    state: str | None,
    parent: str | None,
    include_archived: bool,
    archived_only: bool,
) -> None:
    """List jobs, the newest first."""
    if include_archived and archived_only:
        raise CliError("--include-archived and --archived-only exclude each other.", USAGE, "UsageError")
    query: dict[str, str | int] = {"limit": min(max_results, 200) if not all_results else 200}
    if state:
        query["state"] = state
    if parent:
        query["parent"] = parent
    if include_archived or archived_only:
        query["archived"] = "true" if archived_only else "all"
    rows: list[dict[str, Any]] = []
    while True:
        answer = session.client.get(f"{session.native}/jobs", query)
        rows.extend(answer["value"])
        if not answer.get("next") or (not all_results and len(rows) >= max_results):
            break
        query["after"] = answer["next"]
    shown = rows if all_results else rows[:max_results]
    empty = "No jobs yet. Submit one with: tidemill job create --file job.yml"
    if state:
        empty = f"No job is {state}."
    elif archived_only:
        empty = "No job is archived."
    print_list(session, shown, _COLUMNS, empty)


@command(job, "show", "tidemill job show --name brave_apple_0k3d9x2hbw --output json")
@_name
@click.option("--web", is_flag=True, help="Open its page.")
def show(session: Session, name: str, web: bool) -> None:
    """Show one job: its state, its time line, its price."""
    detail = _native(session, name)
    if web:
        _open(session, detail.get("page") or "")
    from tidemill.cli.job_facts import show_facts

    print_item(session, detail, show_facts(detail))


@command(
    job,
    "graph",
    """tidemill job graph brave_apple_0k3d9x2hbw
    tidemill job graph --file pipeline.yml --svg pipeline.svg""",
)
@click.argument("name", required=False)
@click.option("--file", "-f", "file", metavar="YAML", help="Of a file that is not submitted.")
@click.option("--svg", metavar="FILE", help="Write a picture; - for standard output.")
def graph(session: Session, name: str | None, file: str | None, svg: str | None) -> None:
    """Draw the steps of a pipeline and what they wait for."""
    from tidemill.cli import graphs

    if bool(name) == bool(file):
        raise CliError("Give the NAME of a pipeline job, or --file YAML.", USAGE, "UsageError")
    steps = graphs.of_file(file) if file else graphs.of_job(_native(session, name or ""))
    if svg:
        graphs.write_svg(steps, svg, name or file or "")
        if svg != "-":
            session.note(f"{svg} is written.")
    elif session.output == "table":
        click.echo(graphs.text(steps))
    else:
        print_item(session, graphs.as_dicts(steps))


@command(job, "stream", "tidemill job stream --name brave_apple_0k3d9x2hbw")
@_name
def stream(session: Session, name: str) -> int:
    """Follow a job: phases, log, result. Ctrl-C leaves it running."""
    return follow(session, name)


@command(job, "rerun", "tidemill job rerun --name brave_apple_0k3d9x2hbw --stream")
@_name
@click.option("--new-name", help="Name of the new job; else one is made.")
@_keep
@click.option("--stream", is_flag=True, help="Follow it until it ends; exit code 1 when it fails.")
@click.option("--web", is_flag=True, help="Open its page.")
def rerun(
    session: Session, name: str, new_name: str | None, keep_on_failure: str | None, stream: bool, web: bool
) -> int:
    """Submit a job again as it was, under a new name."""
    from tidemill.cli.again import RERUN_OF

    return _again(session, name, new_name, RERUN_OF, (), stream, web, keep_on_failure)


@command(
    job,
    "clone",
    """tidemill job clone --name brave_apple_0k3d9x2hbw --set inputs.lr=0.1 --stream
    tidemill job clone -n brave_apple_0k3d9x2hbw --set compute=azureml:gpu --set limits.timeout=3600""",
)
@_name
@click.option(
    "--set", "settings", multiple=True, required=True, metavar="PATH=VALUE", help="What differs; repeatable."
)
@click.option("--new-name", help="Name of the new job; else one is made.")
@click.option("--stream", is_flag=True, help="Follow it until it ends; exit code 1 when it fails.")
@click.option("--web", is_flag=True, help="Open its page.")
def clone(
    session: Session, name: str, settings: tuple[str, ...], new_name: str | None, stream: bool, web: bool
) -> int:
    """Submit a job again with changes, and say which."""
    from tidemill.cli.again import CLONE_OF

    return _again(session, name, new_name, CLONE_OF, settings, stream, web)


def _again(
    session: Session,
    name: str,
    new_name: str | None,
    mark: str,
    settings: tuple[str, ...],
    stream: bool,
    web: bool,
    keep: str | None = None,
) -> int:
    from tidemill.cli import again
    from tidemill.cli.submit import JOBS_API as SUBMIT_API
    from tidemill.cli.submit import KEEP
    from tidemill.cli.submit import new_name as made_up

    made = new_name or made_up()
    body = again.body_of(_arm(session, name), made, mark)
    if keep:
        body["properties"]["properties"][KEEP] = keep
    changes = again.change(session, body["properties"], settings, name)
    path = f"{session.workspace_id()}/jobs/{segment(made)}"
    created = session.client.call("PUT", path, body, {"api-version": SUBMIT_API})
    if settings:
        session.note("\n".join(map(str, changes)) or f"Nothing differs from {name}.")
    return tell_created(session, created, stream, web)


@command(job, "release", "tidemill job release --name brave_apple_0k3d9x2hbw")
@_name
def release(session: Session, name: str) -> None:
    """Give back the nodes that a failed job keeps for a look (--keep-on-failure)."""
    summary = session.client.call("POST", f"{session.native}/jobs/{segment(name)}/release")
    if session.output == "table":
        click.echo(f"The nodes of {name} are released.")
    else:
        print_item(session, summary)


@command(job, "cancel", "tidemill job cancel --name brave_apple_0k3d9x2hbw --wait")
@_name
@click.option("--wait", is_flag=True, help="Return when it has ended.")
def cancel(session: Session, name: str, wait: bool) -> None:
    """Stop a job: TERM first, KILL after its grace time."""
    path = f"{session.workspace_id()}/jobs/{segment(name)}/cancel"
    session.client.begin("POST", path, None, {"api-version": CANCEL_API}, wait=False)
    summary: dict[str, Any] = {}
    while wait and summary.get("status") not in ("Completed", "Failed", "Canceled"):
        summary = session.client.get(f"{session.native}/jobs/{segment(name)}/wait", {"timeout": 30})
    if session.output == "table":
        state = summary.get("status")
        if not state:
            state = _native(session, name).get("status")
        ended = state in ("Completed", "Failed", "Canceled")
        click.echo(f"{name} is {state}." if ended else f"{name} is being canceled.")
    else:
        print_item(session, summary or _native(session, name))


@command(
    job,
    "download",
    """tidemill job download --name brave_apple_0k3d9x2hbw --all --download-path results
    tidemill job download --name brave_apple_0k3d9x2hbw --output-name model""",
)
@_name
@click.option("--all", "everything", is_flag=True, help="Logs, artifacts and every named output.")
@click.option("--output-name", help="Only this output.")
@click.option("--download-path", "-p", default=".", help="Folder to write to (default: this one).")
def download(
    session: Session, name: str, everything: bool, output_name: str | None, download_path: str
) -> None:
    """Fetch a job's logs and outputs."""
    from tidemill.cli.download import fetch, parts_of

    target = Path(download_path).expanduser()
    results: list[dict[str, Any]] = []
    for part in parts_of(_native(session, name), output_name, everything):
        files, size = fetch(session, part, target)
        results.append({"part": part.label, "path": str(target / part.folder), "files": files, "bytes": size})
    columns = (
        Column("part", key("part")),
        Column("files", key("files"), right=True),
        Column("size", key("bytes"), lambda v, now: text.size(v), right=True),
        Column("path", key("path")),
    )
    print_list(session, results, columns, "Nothing to download.")


@command(job, "why", "tidemill job why --name brave_apple_0k3d9x2hbw")
@_name
def why(session: Session, name: str) -> None:
    """Say why a job waits, or how it came to its state, and what comes next."""
    answer = session.client.get(f"{session.native}/jobs/{segment(name)}/why")
    if session.output != "table":
        print_item(session, answer)
        return
    click.echo(answer.get("sentence") or answer.get("state"))
    for reason in answer.get("reasons") or []:
        click.echo(f"  - {reason.get('message')}")
    following = [
        item if isinstance(item, str) else str(item.get("message", item)) for item in answer.get("next") or []
    ]
    if following:
        click.echo("Next:")
        for item in following:
            click.echo(f"  - {item}")


@command(job, "services", "tidemill job services --name brave_apple_0k3d9x2hbw")
@_name
@click.option("--node", type=click.IntRange(0), default=0, show_default=True, help="Of several nodes: which.")
def services(session: Session, name: str, node: int) -> None:
    """List what runs beside a job for its visitors: JupyterLab, TensorBoard and the like."""
    rows = session.client.get(f"{session.native}/jobs/{segment(name)}/services", {"node": node})["value"]
    columns = (
        Column("name", key("name"), wide=True),
        Column("type", key("type")),
        Column("status", key("status"), state=True),
        Column("port", key("port"), right=True),
        Column("reach it with", lambda row: row.get("error") or row["reach"], wide=True),
    )
    print_list(session, rows, columns, f"{name} has no services, or does not run.")


@command(job, "archive", "tidemill job archive --name brave_apple_0k3d9x2hbw")
@_name
def archive(session: Session, name: str) -> None:
    """Hide a job from lists."""
    _patch(session, name, {"hidden": True})
    session.note(f"{name} is archived. Back again with: tidemill job restore --name {name}")


@command(job, "restore", "tidemill job restore --name brave_apple_0k3d9x2hbw")
@_name
def restore(session: Session, name: str) -> None:
    """Show an archived job in lists again."""
    _patch(session, name, {"hidden": False})
    session.note(f"{name} is back.")


@command(job, "update", "tidemill job update --name brave_apple_0k3d9x2hbw --set tags.team=vision")
@_name
@click.option("--set", "settings", multiple=True, required=True, metavar="KEY=VALUE", help="Repeatable.")
def update(session: Session, name: str, settings: tuple[str, ...]) -> None:
    """Change display_name, description or tags."""
    changes: dict[str, Any] = {}
    for setting in settings:
        field, equals, value = setting.partition("=")
        if field == "display_name" and equals:
            changes["displayName"] = value
        elif field == "description" and equals:
            changes["description"] = value
        elif field.startswith("tags.") and equals:
            changes.setdefault("tags", {})[field[5:]] = value
        else:
            raise CliError(
                f"--set {setting}: a submitted job changes only in display_name, description and tags.NAME.",
                USAGE,
                "UsageError",
            )
    if "tags" in changes:
        current = _arm(session, name).get("properties", {}).get("tags") or {}
        changes["tags"] = {**current, **changes["tags"]}
    _patch(session, name, changes)
    if session.output != "table":
        print_item(session, _native(session, name))


def follow(session: Session, name: str) -> int:
    """Prints a job's phases and log until it ends -> the exit code."""
    from tidemill.cli import stream as streaming

    human = session.output == "table"
    printer = streaming.Printer(sys.stdout if human else sys.stderr, session.color and human)
    try:
        detail = streaming.follow(session, name, printer)
    except KeyboardInterrupt:
        printer.line("")
        session.note(
            f"Detached; {name} goes on. Follow it again: tidemill job stream --name {name}\n"
            f"Stop it: tidemill job cancel --name {name}"
        )
        return INTERRUPTED
    if human:
        streaming.close(printer, detail)
    else:
        print_item(session, detail)
    return streaming.exit_code(detail)


def _native(session: Session, name: str) -> dict[str, Any]:
    return session.client.get(f"{session.native}/jobs/{segment(name)}")


def _arm(session: Session, name: str) -> dict[str, Any]:
    path = f"{session.workspace_id()}/jobs/{segment(name)}"
    return session.client.get(path, {"api-version": JOBS_API})


def _patch(session: Session, name: str, changes: dict[str, Any]) -> None:
    experiment = _arm(session, name).get("properties", {}).get("experimentName") or "Default"
    path = f"/history/v1.0{session.workspace_id()}/experiments/{segment(experiment)}/runs/{segment(name)}"
    session.client.call("PATCH", path, changes, {"api-version": HISTORY_API})


def _page(created: dict[str, Any]) -> str:
    services = created.get("properties", {}).get("services") or {}
    return (services.get("Studio") or {}).get("endpoint") or ""


def _open(session: Session, page: str) -> None:
    import webbrowser

    if not page or not webbrowser.open(page):
        session.note(f"No browser could be opened; the page is {page}")
