"""Who is told when a job ends, of which ends, and when a message that did not get through is tried again.

Azure's `notificationSetting` (https://learn.microsoft.com/rest/api/azureml/jobs/create-or-update) has
`emails` and `emailOn`. Its `webhooks` name a service and no address, so an entry acts where it has `url`, a
field of ours. Microsoft's SDK sends no such setting: the properties `tidemill.notify` and
`tidemill.notify_on` say the same in text, which every client carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.fields import mapping
from tidemill.domain.model import JobState
from tidemill.domain.units import SECOND, join_words

NOTIFY, NOTIFY_ON = "tidemill.notify", "tidemill.notify_on"  # properties of a job
EVENTS: Mapping[JobState, str] = {
    JobState.COMPLETED: "JobCompleted",
    JobState.FAILED: "JobFailed",
    JobState.CANCELED: "JobCancelled",
}
MOST_ADDRESSES = 499  # characters, joined by commas: Azure's limit
MOST_HOOKS = 10
# Seconds after each failure; then it is given up. About eight hours in all.
PAUSES_S = (10, 30, 120, 600, 1800, 3600, 7200, 14400)

_SETTING = "properties.notificationSetting"
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?\Z"
)
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_SECRET = re.compile(r"\$\{\{\s*secrets\.[^}]*\}\}")
_OURS = ("content-type", "content-length", "host", "user-agent", "transfer-encoding", "connection")


@dataclass(frozen=True, slots=True)
class Hook:
    """An address that is posted to. `url` and the values of `headers` may hold `${{secrets.NAME}}`."""

    name: str
    url: str
    on: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Notify:
    """`email_on` and `Hook.on`: events."""

    emails: tuple[str, ...] = ()
    email_on: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    without_address: tuple[str, ...] = field(default=())  # names of webhooks that lead nowhere


def read_notify(properties: Mapping[str, Any]) -> Notify | None:
    """Of a job's ARM properties; None where nobody is to be told. Raises InvalidRequest."""
    setting = mapping(properties.get("notificationSetting"), _SETTING)
    own = mapping(properties.get("properties"), "properties.properties")
    emails = [_email(one, f"{_SETTING}.emails") for one in _list(setting.get("emails"), f"{_SETTING}.emails")]
    email_on = _events(_list(setting.get("emailOn"), f"{_SETTING}.emailOn"), f"{_SETTING}.emailOn")
    hooks, lost = _hooks(mapping(setting.get("webhooks"), f"{_SETTING}.webhooks"))
    more, posts = _addresses(own)
    if more or posts:
        where = f"properties.properties.{NOTIFY_ON}"
        on = _events([word for word in re.split(r"[\s,]+", str(own.get(NOTIFY_ON) or "")) if word], where)
        email_on = on if not emails else email_on
        emails += [one for one in more if one not in emails]
        hooks += [Hook(f"{NOTIFY} {n}", url, on) for n, url in enumerate(posts, 1)]
    if len(",".join(emails)) > MOST_ADDRESSES:
        raise InvalidRequest(
            f"The e-mail addresses have more than {MOST_ADDRESSES} characters together. Use a list address.",
            target=f"{_SETTING}.emails",
        )
    if len(hooks) > MOST_HOOKS:
        raise InvalidRequest(
            f"There are {len(hooks)} webhooks; at most {MOST_HOOKS} are called.",
            target=f"{_SETTING}.webhooks",
        )
    found = Notify(tuple(emails), email_on, tuple(hooks), tuple(lost))
    return found if emails or hooks or lost else None


def emails_for(notify: Notify, event: str) -> tuple[str, ...]:
    return notify.emails if event in notify.email_on else ()


def hooks_for(notify: Notify, event: str) -> tuple[Hook, ...]:
    return tuple(hook for hook in notify.hooks if event in hook.on)


def secret_texts(hooks: Iterable[Hook]) -> tuple[tuple[str, str], ...]:
    """(whose, text) of all that may name secrets."""
    return tuple(
        (f"webhook {hook.name}", text)
        for hook in hooks
        for text in (hook.url, *(value for _, value in hook.headers))
    )


def next_try(failures: int, now: int) -> int | None:
    """When it is tried again after so many failures (microseconds); None: it is given up."""
    return now + PAUSES_S[failures - 1] * SECOND if failures <= len(PAUSES_S) else None


def retried(status: int) -> bool:
    """Whether an HTTP answer may be another one later."""
    return status >= 500 or status in (408, 425, 429)


def _addresses(own: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(e-mail addresses, URLs) of the property."""
    where = f"properties.properties.{NOTIFY}"
    words = [word for word in re.split(r"[\s,]+", str(own.get(NOTIFY) or "")) if word]
    urls = [_url(word, where) for word in words if "://" in word or word.startswith("${{")]
    return [_email(word, where) for word in words if not ("://" in word or word.startswith("${{"))], urls


def _hooks(given: Mapping[str, Any]) -> tuple[list[Hook], list[str]]:
    found: list[Hook] = []
    lost: list[str] = []
    for name, raw in given.items():
        where = f"{_SETTING}.webhooks.{name}"
        entry = mapping(raw, where)
        if not entry.get("url"):
            lost.append(name)
            continue
        events = _list(entry.get("eventType"), f"{where}.eventType")
        headers = tuple(
            _header(key, str(value), f"{where}.headers")
            for key, value in mapping(entry.get("headers"), f"{where}.headers").items()
        )
        url = _url(str(entry["url"]), f"{where}.url")
        found.append(Hook(name, url, _events(events, f"{where}.eventType"), headers))
    return found, lost


def _events(given: list[str], where: str) -> tuple[str, ...]:
    """All, where none is named. Case does not matter, nor how canceled is spelled."""
    known = {name.lower(): name for name in EVENTS.values()} | {"jobcanceled": "JobCancelled"}
    unknown = next((one for one in given if one.lower() not in known), None)
    if unknown is not None:
        raise InvalidRequest(
            f"{unknown!r} is no event. Use {join_words(EVENTS.values(), 'or')}.", target=where
        )
    return tuple(dict.fromkeys(known[one.lower()] for one in given)) or tuple(EVENTS.values())


def _email(text: str, where: str) -> str:
    if not _EMAIL.match(text) or ".." in text:
        raise InvalidRequest(f"{text[:100]!r} is no e-mail address.", target=where)
    return text


def check_email(text: str, where: str) -> str:
    """Raises InvalidRequest."""
    return _email(text, where)


def _url(text: str, where: str) -> str:
    """Whole, or to be known once its secrets are put in."""
    plain = _SECRET.sub("x", text)
    if _SECRET.match(text):  # all of it, or its beginning, is a secret
        return text
    try:
        parts = urlsplit(plain)
        good = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or any(ord(c) <= 32 or ord(c) == 127 for c in plain) or len(text) > 2000:
        raise InvalidRequest(
            f"{text[:100]!r} is no address that can be posted to: write https://HOST/PATH.", target=where
        )
    if urlsplit(plain).username is not None:
        raise InvalidRequest(
            "A webhook's address holds no user or password: use headers with ${{secrets.NAME}}.", target=where
        )
    return text


def check_url(text: str, where: str) -> str:
    """Raises InvalidRequest."""
    return _url(text, where)


def _header(name: str, value: str, where: str) -> tuple[str, str]:
    if not _HEADER.match(name) or name.lower() in _OURS or "\r" in value or "\n" in value:
        raise InvalidRequest(f"{name[:80]!r} is no header that a webhook may have.", target=where)
    return name, value


def _list(raw: Any, where: str) -> list[str]:
    if raw is None or raw == "":
        return []
    if isinstance(raw, str):
        return [raw]
    if not isinstance(raw, list):
        raise InvalidRequest(f"{where} must be a list of texts.", target=where)
    return [str(one) for one in cast(list[Any], raw)]
