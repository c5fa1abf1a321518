"""What may be removed from a home, by rules that its owner set. Without a rule everything is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import plural

DAY_US = 86_400_000_000
MOST_DAYS = 36_500


class Kind(StrEnum):
    JOB_FILES = "job-files"  # logs and artifacts of a job that has ended
    ENVIRONMENT = "environment"  # one that is built; it is built again when a job asks for it
    UPLOAD = "upload"  # what was uploaded for an asset that was never made
    BACKUP = "backup"  # in the home's own folder


@dataclass(frozen=True, slots=True)
class Rules:
    """None keeps for ever. Days since the last use; `backups_keep`: how many of the newest stay."""

    job_files_days: int | None = None
    environments_days: int | None = None
    uploads_days: int | None = None
    backups_keep: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """`name` tells it from all others of its kind. `used_at`: when it was last used, microseconds.
    `named_by`: who still needs it, in words. `size` in bytes."""

    kind: Kind
    name: str
    used_at: int
    size: int = 0
    named_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    candidate: Candidate
    remove: bool
    why: str


def read_rules(given: Mapping[str, Any], over: Rules = Rules()) -> Rules:
    """The rules with what is given changed; None takes one away. Raises InvalidRequest naming the rule."""
    known = [field.name for field in fields(Rules)]
    changed = over.as_dict()
    for name, value in given.items():
        if name not in known:
            raise InvalidRequest(f"There is no rule {name!r}. Known: {', '.join(known)}.", target=name)
        least = 0 if name == "backups_keep" else 1
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_DAYS
        if value is not None and not whole:
            raise InvalidRequest(
                f"{name} is {value!r}: it must be a whole number from {least} to {MOST_DAYS}, or nothing.",
                target=name,
            )
        changed[name] = value
    return Rules(**changed)


def decide(rules: Rules, candidates: Iterable[Candidate], now: int) -> list[Verdict]:
    """Of each whether it goes, and why or why not. What something needs stays, whatever the rules say."""
    days = {
        Kind.JOB_FILES: rules.job_files_days,
        Kind.ENVIRONMENT: rules.environments_days,
        Kind.UPLOAD: rules.uploads_days,
    }
    found = list(candidates)
    backups = [one for one in found if one.kind is Kind.BACKUP]
    newest = sorted(backups, key=lambda one: (one.used_at, one.name), reverse=True)
    kept = {c.name for c in newest[: rules.backups_keep]}
    verdicts: list[Verdict] = []
    for one in found:
        if one.named_by:
            verdicts.append(Verdict(one, False, f"It is needed by {one.named_by[0]}."))
        elif one.kind is Kind.BACKUP:
            verdicts.append(_of_backup(one, rules, one.name in kept))
        else:
            verdicts.append(_by_age(one, days[one.kind], now))
    return verdicts


def _of_backup(one: Candidate, rules: Rules, among_newest: bool) -> Verdict:
    if rules.backups_keep is None:
        return Verdict(one, False, "No rule is set: it is kept for ever.")
    if among_newest:
        return Verdict(one, False, "It is among the newest.")
    return Verdict(one, True, f"Only the newest {rules.backups_keep} are kept.")


def _by_age(one: Candidate, days: int | None, now: int) -> Verdict:
    if days is None:
        return Verdict(one, False, "No rule is set: it is kept for ever.")
    old = (now - one.used_at) // DAY_US
    if now - one.used_at <= days * DAY_US:
        return Verdict(one, False, f"Last used {plural(max(old, 0), 'day')} ago; it is kept for {days}.")
    return Verdict(one, True, f"Last used {plural(old, 'day')} ago, and kept for {days}.")
