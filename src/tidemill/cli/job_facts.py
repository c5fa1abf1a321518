"""One job as `tidemill job show` prints it."""

from __future__ import annotations

from typing import Any

from tidemill.cli import text

SHOWN_TRIALS = 10  # of a sweep, the best


def show_facts(detail: dict[str, Any]) -> list[tuple[str, str]]:
    from tidemill.cli.stream import closing_facts, headline

    first, _, rest = headline(detail).partition("  ")
    facts = [("status", first), ("job", rest)]
    for label, value in (
        ("display name", detail.get("display_name")),
        ("experiment", detail.get("experiment")),
        ("compute", _where(detail)),
        ("command", detail.get("command")),
        ("environment", detail.get("environment")),
        ("note", detail.get("environment_note")),
        (
            "waits",
            detail.get("reason") if detail.get("status") in ("Queued", "Preparing", "Provisioning") else None,
        ),
    ):
        if value:
            facts.append((label, str(value)))
    facts.extend(closing_facts(detail))
    if detail.get("kept"):
        facts.append(("kept", _kept(detail["kept"], detail["name"])))
    if detail.get("steps"):
        from tidemill.cli import graphs

        facts.append(("steps", graphs.text(graphs.of_job(detail))))
    if detail.get("parent"):
        facts.append(("part of", f"{detail['parent']}, as step {detail['step']}"))
    if detail.get("sweep"):
        facts.append(("trials", "\n".join(_trials(detail["sweep"]))))
    if detail.get("parallel"):
        facts.append(("batches", _batches(detail["parallel"])))
    timeline = detail.get("timeline") or []
    if timeline:
        facts.append(("time line", "\n".join(_moment(entry) for entry in timeline)))
    return facts


def _kept(kept: dict[str, Any], name: str) -> str:
    """Until when its nodes stay, what that has cost so far, and what can be done."""
    nodes = ", ".join(kept["nodes"])
    price = "no list price"
    if kept["usd"] is not None:
        price = f"{text.money(kept['usd'])} so far at {text.money(kept['usd_hour'])}/h"
    left = f"{text.duration(kept['seconds_left'])} more (until {kept['until'][11:19]} UTC)"
    return f"{nodes} for {left}, {price}\ntidemill ssh {name}\ntidemill job release --name {name}"


def _batches(found: dict[str, Any]) -> str:
    done = found["finished"] + found["failed"]
    failed = f", {found['failed']} of them failed" if found["failed"] else ""
    missing = f", {found['item_errors']} without a result" if found["item_errors"] else ""
    return f"{done} of {found['total']} mini-batches are done{failed}; {found['items']} items{missing}"


def _where(detail: dict[str, Any]) -> str:
    size = detail.get("serverless")
    return f"serverless: nodes of {size}, for this job alone" if size else str(detail.get("compute") or "")


def _trials(sweep: dict[str, Any]) -> list[str]:
    """How many there are, then the best."""
    sign = -1 if sweep["goal"] == "maximize" else 1
    scored = [trial for trial in sweep["trials"] if trial["score"] is not None]
    scored.sort(key=lambda trial: (sign * trial["score"], trial["number"]))
    lines = [f"{len(sweep['trials'])} of {sweep['total']} started, {sweep['algorithm']} sampling"]
    for trial in scored[:SHOWN_TRIALS]:
        values = " ".join(f"{key}={value}" for key, value in trial["values"].items())
        lines.append(
            f"{trial['number']:>4}  {sweep['metric']} {trial['score']:.6g}  {values}  {trial['name']}"
        )
    if len(scored) > SHOWN_TRIALS:
        lines.append(f"      and {len(scored) - SHOWN_TRIALS} more: tidemill job list --parent NAME")
    return lines


def _moment(entry: dict[str, Any]) -> str:
    at = entry.get("elapsed_s")
    shown = f"{at:7.2f}s" if at is not None else " " * 8
    return f"{shown}  {entry.get('message', '')}"
