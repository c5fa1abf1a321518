"""Messages about jobs that have ended: an outbox of rows, written in the commit that ends the job.

Row: Key(workspace, "notices", "JOB'S UID.N"); `spec`: what is told and to whom; `next_at`: the next try. It
goes once the message is out, or given up; a kill in between sends it once more: `id` is the same then.
How mail is sent and what webhooks may reach is one row for the home (`settings_of`), the password sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import msgspec

from tidemill.app.jobs.notice_transports import Smtp
from tidemill.app.rows.codec import encode
from tidemill.app.rows.sealed import seal, unseal
from tidemill.app.services import Caller, Services
from tidemill.domain import notifications
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import JobState, Key, Resource, Scope
from tidemill.domain.notifications import EVENTS, Hook
from tidemill.domain.plan import JobPlan, JobProgress
from tidemill.sandbox import egress
from tidemill.store.api import Read, Tx

TYPE, SETTINGS = "notices", "notificationSettings"
SECURITIES = ("starttls", "tls", "none")


@dataclass(frozen=True, slots=True)
class Told:
    """What a message says of a job. Times in microseconds."""

    job_uid: str
    event: str
    name: str
    display_name: str
    experiment: str
    kind: str
    status: str
    submitted_by: str
    created_at: int
    started_at: int | None
    ended_at: int
    error_code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One message: an e-mail (`emails`) or a POST (`hook`)."""

    told: Told
    emails: tuple[str, ...] = ()
    hook: Hook | None = None
    failures: int = 0

    @property
    def to(self) -> str:
        return f"E-mail to {', '.join(self.emails)}" if self.emails else f"Webhook {self.hook_name}"

    @property
    def hook_name(self) -> str:
        return self.hook.name if self.hook is not None else ""


@dataclass(frozen=True, slots=True)
class Settings:
    """`smtp` None: no mail is sent. `recipients`: domains (or whole addresses) that mail goes to, empty: any.
    `webhooks`: what they may reach, as computes say it (sandbox/egress.py)."""

    smtp: Smtp | None = None
    recipients: tuple[str, ...] = ()
    webhooks: str = egress.INTERNET


_decode = msgspec.json.Decoder(Notice).decode
_settings = msgspec.json.Decoder(Settings).decode


# --- the outbox


def post(tx: Tx, row: Resource, plan: JobPlan, progress: JobProgress, state: JobState, kind: str) -> None:
    """In the commit that ends the job. Nothing where nobody is to be told."""
    notify = plan.job.notify
    if notify is None:
        return
    now = progress.ended_at or row.modified_at
    event = EVENTS[state]
    error = progress.error
    told = Told(
        job_uid=row.uid,
        event=event,
        name=row.key.name,
        display_name=plan.job.display_name,
        experiment=plan.job.experiment,
        kind=kind,
        status=state.value,
        submitted_by=row.created_by,
        created_at=row.created_at,
        started_at=progress.started_at,
        ended_at=now,
        error_code=error.code if error else "",
        error=error.message.split("\n", 1)[0] if error else "",
    )
    emails = notifications.emails_for(notify, event)
    found = [Notice(told, emails=emails)] if emails else []
    found += [Notice(told, hook=hook) for hook in notifications.hooks_for(notify, event)]
    for number, notice in enumerate(found):
        name = f"{row.uid}.{number}"
        key = Key(row.key.scope, TYPE, name)
        tx.insert(
            Resource(
                f"{name}.notice", key, "Pending", encode(notice), created_at=now, modified_at=now, next_at=now
            )
        )


def notice_of(row: Resource) -> Notice:
    return _decode(row.spec)


# --- settings


def key_of(subscription: str) -> Key:
    return Key(Scope(subscription), SETTINGS, "home")


async def settings_of(s: Services) -> Settings:
    """With the password in clear."""
    row = await s.store.read(lambda r: r.get(key_of(s.settings.subscription)))
    if row is None:
        return Settings()
    found = _settings(row.spec)
    if found.smtp is None:
        return found
    return replace(found, smtp=replace(found.smtp, password=str(unseal(s, row).get("password", ""))))


async def put_settings(s: Services, caller: Caller, changes: Mapping[str, Any]) -> Settings:
    """Merges; `smtp` null takes the mail server away. Raises InvalidRequest."""
    made = _changed(await settings_of(s), changes)
    uid, now = s.ids.uid(), s.clock.now()
    spec = encode(made if made.smtp is None else replace(made, smtp=replace(made.smtp, password="")))

    def change(tx: Tx) -> None:
        row = tx.get(key_of(s.settings.subscription))
        id = uid if row is None else row.uid
        status = seal(s, id, {"password": made.smtp.password} if made.smtp and made.smtp.password else {})
        if row is None:
            tx.insert(
                Resource(
                    id,
                    key_of(s.settings.subscription),
                    "Succeeded",
                    spec,
                    status,
                    created_at=now,
                    modified_at=now,
                    created_by=caller.name,
                )
            )
        else:
            tx.update(replace(row, spec=spec, status=status, modified_at=now))

    await s.store.write(change)
    return made


def shown(settings: Settings) -> dict[str, Any]:
    """Without the password: only whether there is one."""
    smtp = settings.smtp
    mail = None
    if smtp is not None:
        mail = {**asdict(smtp), "password": bool(smtp.password)}
    return {"smtp": mail, "recipients": list(settings.recipients), "webhooks": settings.webhooks}


def _changed(before: Settings, changes: Mapping[str, Any]) -> Settings:
    unknown = next((name for name in changes if name not in ("smtp", "recipients", "webhooks")), None)
    if unknown is not None:
        raise InvalidRequest(
            f"{unknown!r} is no setting. There are smtp, recipients and webhooks.", target=unknown
        )
    made = before
    if "smtp" in changes:
        made = replace(made, smtp=None if changes["smtp"] is None else _smtp(before.smtp, changes["smtp"]))
    if "recipients" in changes:
        given: Any = changes["recipients"] or []
        if not isinstance(given, list):
            raise InvalidRequest("recipients must be a list of domains or addresses.", target="recipients")
        made = replace(made, recipients=tuple(str(one).lower() for one in cast(list[Any], given)))
    if "webhooks" in changes:
        try:
            egress.parse(str(changes["webhooks"]))
        except ValueError as error:
            raise InvalidRequest(f"webhooks: {error}.", target="webhooks") from None
        made = replace(made, webhooks=str(changes["webhooks"]))
    return made


def _smtp(before: Smtp | None, raw: Any) -> Smtp:
    if not isinstance(raw, Mapping):
        raise InvalidRequest("smtp must be an object.", target="smtp")
    given: dict[str, Any] = {**(asdict(before) if before else {}), **raw}
    unknown = next((name for name in given if name not in Smtp.__dataclass_fields__), None)
    if unknown is not None:
        raise InvalidRequest(f"smtp has no {unknown!r}.", target=f"smtp.{unknown}")
    security = str(given.get("security") or "starttls").lower()
    if security not in SECURITIES:
        raise InvalidRequest(
            f"security is {security!r}. Use {', '.join(SECURITIES)}.", target="smtp.security"
        )
    host, port = (
        str(given.get("host") or ""),
        given.get("port") or {"tls": 465, "starttls": 587}.get(security, 25),
    )
    if not host or any(c.isspace() or c == "/" for c in host):
        raise InvalidRequest("smtp has no host: give the name of the mail server.", target="smtp.host")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise InvalidRequest(f"port is {port!r}: it must be from 1 to 65535.", target="smtp.port")
    sender = notifications.check_email(str(given.get("sender") or ""), "smtp.sender")
    user, password = str(given.get("user") or ""), str(given.get("password") or "")
    if password and security == "none" and host not in ("localhost", "127.0.0.1", "::1"):
        raise InvalidRequest(
            "A password would cross the network in clear: use security starttls or tls.",
            target="smtp.security",
        )
    return Smtp(host, port, security, sender, user, password)


def may_get(settings: Settings, address: str) -> bool:
    lower = address.lower()
    domain = lower.rpartition("@")[2]
    return not settings.recipients or lower in settings.recipients or domain in settings.recipients


async def notes(s: Services, plan: JobPlan) -> tuple[str, ...]:
    """For the time line of a job that is submitted: what of its setting will come to nothing."""
    notify = plan.job.notify
    if notify is None:
        return ()
    settings = await settings_of(s)
    found = [
        f"Webhook {name} has no url, so nothing is posted: Azure's setting names a service, not an address."
        for name in notify.without_address
    ]
    if notify.emails and settings.smtp is None:
        found.append("No e-mail is sent at its end: no mail server is set (tidemill notifications set).")
    return tuple(found)


def pending(read: Read) -> Sequence[Resource]:
    """All that is not out yet."""
    return read.due(TYPE, 2**62, 1_000_000)
