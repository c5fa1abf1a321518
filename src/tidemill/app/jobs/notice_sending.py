"""Sending the messages of the outbox (`app/jobs/notices.py`), and what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from tidemill.app.jobs import costs, notice_transports, notices
from tidemill.app.jobs.notice_transports import NotSent
from tidemill.app.jobs.notices import Notice, Told, notice_of
from tidemill.app.people.secretstore import for_job
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.services import Caller, Services
from tidemill.app.times import iso
from tidemill.domain import notifications
from tidemill.domain.errors import InvalidRequest, NotFound, OutOfSpace, TidemillError
from tidemill.domain.model import Event, Resource, Scope
from tidemill.domain.notifications import Hook
from tidemill.domain.secretrefs import filled
from tidemill.domain.units import human_duration
from tidemill.store.api import Tx

AGENT = "tidemill"


async def send(s: Services, uid: str) -> None:
    """One try, and what came of it in the time line of the job. Never raises for what the other side does."""
    row = await s.store.read(lambda r: r.by_uid(uid))
    if row is None:
        return
    notice = notice_of(row)
    try:
        await _send(s, row, notice)
    except NotSent as error:
        await _failed(s, row, notice, str(error), error.again)
    except OutOfSpace as error:
        await _failed(s, row, notice, error.message.rstrip("."), True)
    except TidemillError as error:  # a secret that is gone, a right that was taken away
        await _failed(s, row, notice, error.message.rstrip("."), False)
    else:
        await _settle(s, row, None, "NotificationSent", f"{notice.to} was sent.")


async def _send(s: Services, row: Resource, notice: Notice) -> None:
    settings = await notices.settings_of(s)
    job = await s.store.read(lambda r: r.by_uid(notice.told.job_uid))
    cost = (await costs.job_cost(s, job)).usd if job is not None else None
    page = s.addresses.page_of_job(row.key.scope, notice.told.name)
    if notice.hook is None:
        await _mail(s, settings, mail_of(notice.told, notice.emails, cost, page, row.uid))
        return
    body = encode(payload(notice.told, row.key.scope, cost, page, row.uid))
    await _post(s, settings, await _revealed(s, job, notice.hook), body, row.uid)


async def _revealed(s: Services, job: Resource | None, hook: Hook) -> Hook:
    """With its secrets: read in the name of who submitted the job. Raises NotFound, Forbidden."""
    texts = notifications.secret_texts([hook])
    if not any("${{" in text for _, text in texts):
        return hook
    if job is None:
        raise NotFound(f"Webhook {hook.name} needs a secret, and its job was deleted.")
    values = await for_job(s, job, job_status(job.status).plan, texts, f"webhook {hook.name}")
    url = filled([("url", hook.url)], values)["url"]
    return replace(hook, url=url, headers=tuple(filled(hook.headers, values).items()))


async def _mail(s: Services, settings: notices.Settings, message: EmailMessage) -> None:
    if settings.smtp is None:
        raise NotSent("no mail server is set (tidemill notifications set)", False)
    for address in str(message["To"]).split(", "):
        if not notices.may_get(settings, address):
            raise NotSent(f"{address} is not among the recipients that mail may go to", False)
    message["From"] = settings.smtp.sender
    await asyncio.to_thread(notice_transports.mail, settings.smtp, message, str(s.settings.ca_bundle))


async def _post(s: Services, settings: notices.Settings, hook: Hook, body: bytes, id: str) -> None:
    headers = {
        **dict(hook.headers),
        "Content-Type": "application/json",
        "User-Agent": AGENT,
        "X-Tidemill-Delivery": id,
    }
    ca = str(s.settings.ca_bundle)
    await asyncio.to_thread(notice_transports.post, hook.url, body, headers, settings.webhooks, ca)


async def _failed(s: Services, row: Resource, notice: Notice, why: str, again: bool) -> None:
    failures, now = notice.failures + 1, s.clock.now()
    due = notifications.next_try(failures, now) if again else None
    if due is None:
        times = f" after {failures} tries" if failures > 1 else ""
        await _settle(s, row, None, "NotificationFailed", f"{notice.to} was not sent{times}: {why}.")
        return
    anew = replace(row, spec=encode(replace(notice, failures=failures)), next_at=due, modified_at=now)
    pause = human_duration(due - now)
    text = f"{notice.to} was not sent: {why}. It is tried again in {pause}."
    # The first failure is told; the others would say the same.
    await _settle(s, row, anew, "NotificationDelayed" if failures == 1 else "", text)


async def _settle(s: Services, row: Resource, anew: Resource | None, code: str, message: str) -> None:
    job_uid, now = notice_of(row).told.job_uid, s.clock.now()

    def change(tx: Tx) -> None:
        current = tx.by_uid(row.uid)
        if current is None:
            return
        if anew is None:
            tx.delete(current)
        else:
            tx.update(replace(anew, revision=current.revision))
        if code:
            tx.add_event(Event(job_uid, "job", now, code, message))

    await s.store.write(change)


# --- what it says


def payload(told: Told, scope: Scope, cost: float | None, page: str, id: str) -> dict[str, Any]:
    """The body of a POST. `id` is the same where it is sent twice."""
    return {
        "id": id,
        "event": told.event,
        "workspace": scope.arm_id,
        "job": {
            "name": told.name,
            "display_name": told.display_name,
            "experiment": told.experiment,
            "type": told.kind,
            "status": told.status,
            "submitted_by": told.submitted_by,
            "created_at": iso(told.created_at),
            "started_at": iso(told.started_at),
            "ended_at": iso(told.ended_at),
            "cost_usd": cost,
            "error": {"code": told.error_code, "message": told.error} if told.error else None,
        },
        "page": page,
    }


def mail_of(told: Told, emails: Sequence[str], cost: float | None, page: str, id: str) -> EmailMessage:
    """Without a sender. Names of users are put in as text: no line of theirs becomes a header."""
    took = human_duration(told.ended_at - (told.started_at or told.created_at))
    message = EmailMessage()
    name = "".join(c for c in told.display_name if c.isprintable())[:100]
    message["Subject"] = f"{name} {told.status.lower()} after {took}"
    message["To"] = ", ".join(emails)
    message["Date"] = format_datetime(datetime.fromtimestamp(told.ended_at / 1e6, UTC))
    message["Message-ID"] = f"<{id}@{AGENT}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [
        f"Job {told.name} of {told.submitted_by} ({told.experiment}) is {told.status} after {took}.",
        *([f"{told.error_code}: {told.error}"] if told.error else []),
        *([f"Price: ${cost:.6g}"] if cost is not None else []),
        f"Its page: {page}",
    ]
    message.set_content("\n\n".join(lines) + "\n")
    return message


async def try_out(s: Services, caller: Caller, emails: Sequence[str], url: str) -> None:
    """Sends a message that says it is a trial, now. Raises InvalidRequest with what went wrong."""
    now, id = s.clock.now(), f"test-{s.ids.uid()}"
    told = Told(
        "",
        "Test",
        "none",
        "A trial of notifications",
        "none",
        "test",
        "Completed",
        caller.name,
        now,
        now,
        now,
    )
    settings = await notices.settings_of(s)
    try:
        if emails:
            good = [notifications.check_email(one, "emails") for one in emails]
            await _mail(s, settings, mail_of(told, good, None, s.addresses.http, id))
        if url:
            hook = Hook("test", notifications.check_url(url, "url"), ())
            scope = Scope(s.settings.subscription)
            await _post(s, settings, hook, encode(payload(told, scope, None, s.addresses.http, id)), id)
    except NotSent as error:
        raise InvalidRequest(f"It was not sent: {error}.", "NotSent") from None
