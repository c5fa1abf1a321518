"""Following a job: its phases with their times, its log as it comes and exactly once, and a closing block."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

import click

from tidemill.cli import text
from tidemill.cli.errors import FAILED, NOT_RUNNING, OK, CliError, ServerGone
from tidemill.cli.http import LOST, StreamEvent
from tidemill.cli.output import clean, fact_lines
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

RECONNECT_S = 60.0
_RETRY_S = 0.1
GOOD = "Completed"


class Printer:
    """Writes phases and log text to one stream without tearing lines."""

    def __init__(self, out: TextIO, color: bool) -> None:
        self._out = out
        self._color = color
        self._fresh = True  # the cursor stands at the start of a line
        self._path = ""
        self._paths = 0

    def line(self, line: str, color: str | None = None, dim: bool = False) -> None:
        if not self._fresh:
            self._out.write("\n")
        styled = click.style(line, fg=color, dim=dim) if self._color else line
        self._out.write(styled + "\n")
        self._fresh = True
        self._out.flush()

    def phase(self, elapsed_s: float | None, message: str) -> None:
        at = f"{elapsed_s:7.2f}s" if elapsed_s is not None else " " * 8
        # What follows the first line is the end of the log, which has just been shown.
        self.line(f"{at}  {clean((message.splitlines() or [''])[0])}", dim=True)

    def log(self, path: str, chunk: str) -> None:
        """A piece of a log, as it is. Once there is more than one log, each piece says which it is of."""
        if path != self._path:
            self._paths += 1
            if self._paths > 1:
                self.line(f"==> {clean(path)} <==", dim=True)
            self._path = path
        self._out.write(chunk)
        self._fresh = chunk.endswith("\n")
        self._out.flush()


def follow(
    session: Session,
    name: str,
    printer: Printer,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    patience_s: float = RECONNECT_S,
) -> dict[str, Any]:
    """Streams until the job is final -> its detail. A server that goes away is waited for up to `patience_s`;
    then it goes on after the last event that was seen. Raises CliError (exit code 5) when that has passed."""
    path = f"{session.native}/jobs/{segment(name)}/stream"
    client = session.client
    last, lost_at, told = "", None, False
    while True:
        failure: CliError | None = None  # what a server that answers, but with an error, said last
        try:
            for event in client.events(path, {"after": last} if last else None, last):
                if event.id != last:
                    lost_at = None  # news; a server that only repeats its state has not come back
                detail = _handle(event, printer)
                # The id says what the client has been given: with it, nothing comes twice after a break.
                last = event.id or last
                if detail is not None:
                    return detail
        except TimeoutError:
            continue  # nothing was sent for long; ask again from where it stopped
        except ServerGone:
            pass
        except CliError as error:
            if error.exit_code != FAILED:
                raise
            failure = error
        except LOST:
            pass
        now = clock()
        lost_at = now if lost_at is None else lost_at
        if not told:
            what = "went away" if failure is None else "could not answer"
            printer.line(f"          The server {what}; the job goes on. Waiting for it…", "yellow")
            told = True
        if now - lost_at > patience_s:
            if failure is not None:
                raise failure
            raise CliError(
                f"The server gave no news within {patience_s:.0f} s; job {name} may still be running. "
                f"{session.start_hint}, then: tidemill job stream --name {name}",
                NOT_RUNNING,
                "ServerNotRunning",
            )
        sleep(_RETRY_S)
        try:
            client = session.connect()
        except CliError:
            continue


def _handle(event: StreamEvent, printer: Printer) -> dict[str, Any] | None:
    data = event.data
    if event.name == "timeline":
        printer.phase(data.get("elapsed_s"), data.get("message", ""))
    elif event.name == "log":
        printer.log(data.get("path", ""), data.get("text", ""))
    elif event.name == "end":
        return data
    return None


def close(printer: Printer, detail: dict[str, Any]) -> None:
    """The closing block."""
    status = detail.get("status", "")
    printer.line("")
    printer.line(headline(detail), "green" if status == GOOD else "red" if status == "Failed" else "yellow")
    for line in fact_lines(closing_facts(detail)):
        printer.line("  " + line)


def headline(detail: dict[str, Any]) -> str:
    status, name = detail.get("status", ""), detail.get("name", "")
    took = detail.get("duration_s")
    line = f"{status}  {name}"
    if took is not None:
        line += f"  in {text.duration(took)}"
        if detail.get("queue_s"):
            line += f", after {text.duration(detail['queue_s'])} of waiting"
    return line


def closing_facts(detail: dict[str, Any]) -> list[tuple[str, str]]:
    """The error is its first line: the end of the log, which follows it, has a command of its own."""
    facts: list[tuple[str, str]] = []
    error = detail.get("error") or {}
    if error.get("message"):
        facts.append(("error", error["message"].splitlines()[0]))
    if detail.get("exit_code") not in (None, 0):
        facts.append(("exit code", str(detail["exit_code"])))
    for name, value in (detail.get("metrics") or {}).items():
        facts.append((clean(name), text.number(value)))
    for name, output in (detail.get("outputs") or {}).items():
        shown = (output or {}).get("asset") or (output or {}).get("uri")
        if shown and detail.get("status") == GOOD:
            facts.append((f"output {clean(name)}", text.uri(shown)))
    price = detail.get("price") or {}
    if price:
        facts.append(("price", price_line(price)))
    page = detail.get("page") or detail.get("studio")
    if page:
        facts.append(("page", page))
    return facts


def price_line(price: dict[str, Any]) -> str:
    """ "$0.00031 = 1 x 3.8 s of Standard_DS3_v2 at $0.293/h (list price of 2024-09-01)"."""
    if price.get("usd") is None:
        return "not known: " + (
            price.get("basis") or f"no price is listed for {price.get('size') or 'this size'}"
        )
    line = text.money(price["usd"]) + (" so far" if price.get("open") else "")
    if price.get("usd_hour") is not None and price.get("seconds") is not None:
        nodes = price.get("nodes")
        count = nodes if isinstance(nodes, int) else len(nodes or []) or 1
        line += f" = {count} x {text.duration(price['seconds'])}"
        line += f" of {price['size']}" if price.get("size") else ""
        line += f" at {text.money(price['usd_hour'])}/h"
    return line + (f" ({price['basis']})" if price.get("basis") else "")


def exit_code(detail: dict[str, Any]) -> int:
    return OK if detail.get("status") == GOOD else FAILED
