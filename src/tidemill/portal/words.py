"""How values are written on pages."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime

from tidemill.domain.roles import RoleDefinition
from tidemill.domain.units import human_bytes, human_duration, human_usd

SECOND = 1_000_000
_WORKSPACE = re.compile(r"^azureml://subscriptions/.+/workspaces/[^/]+/(?=datastores/)", re.IGNORECASE)
_VERSION = re.compile(r"/([^/]+)/versions/([^/]+)$")
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")
_PROVIDER = re.compile(
    r"^Microsoft\.MachineLearningServices/(?:workspaces/)?|^Tidemill\.Server/", re.IGNORECASE
)
_HUMP = re.compile(r"(?<=[a-z])([A-Z])")
GROUPS = {
    "Queued": "waiting",
    "Preparing": "waiting",
    "Provisioning": "waiting",
    "Starting": "running",
    "Running": "running",
    "Finalizing": "running",
    "CancelRequested": "stopping",
    "Completed": "completed",
    "Failed": "failed",
    "Canceled": "canceled",
    "Opening": "waiting",
    "Idle": "idle",
    "Closing": "stopping",
    "Lost": "failed",
    "Succeeded": "completed",
    "Creating": "waiting",
    "Updating": "waiting",
    "Deleting": "stopping",
}


def group(state: str) -> str:
    """The class that colours a state's badge."""
    return GROUPS.get(state, "idle")


def short(text: str) -> str:
    """Long digests by their first eight digits."""
    return _DIGEST.sub(r"\1…", text)


def asset(arm_id: str) -> str:
    """`…/models/digits/versions/1` -> `digits:1`; anything else as it is."""
    found = _VERSION.search(arm_id)
    return f"{found[1]}:{found[2]}" if found else arm_id


def place(uri: object) -> str:
    """A datastore's address without the workspace that the page is about."""
    return _WORKSPACE.sub("azureml://", str(uri))


def lastname(resource: str) -> str:
    """The end of an ARM id or path: `jobs/train-1`."""
    return "/".join(resource.rsplit("/", 2)[-2:])


def upper(text: str) -> str:
    """At the beginning of a line; a path stays as it is."""
    return text if "/" in text else text[:1].upper() + text[1:]


def kind(name: str) -> str:
    """A kind of principal: `service principal`."""
    return _HUMP.sub(r" \1", name).lower()


def shell(text: str) -> str:
    """As a shell takes it for one word."""
    return shlex.quote(text)


def action(name: str) -> str:
    """As the command line takes it: without the provider of nearly all of them."""
    return _PROVIDER.sub("", name)


def patterns(role: RoleDefinition) -> list[tuple[str, list[str]]]:
    """What a role allows and excepts, as its definition says it."""
    kinds = (
        ("Actions", "actions"),
        ("Not actions", "not_actions"),
        ("Data actions", "data_actions"),
        ("Not data actions", "not_data_actions"),
    )
    found = [(label, [p for one in role.permissions for p in getattr(one, name)]) for label, name in kinds]
    return [(label, given) for label, given in found if given]


def headline(text: str) -> str:
    """The first line of a message, without a last sentence that announces the lines after it."""
    first = text.strip().split("\n", 1)[0]
    if first.endswith(":") and ". " in first:
        return first.rsplit(". ", 1)[0] + "."
    return first


def lastline(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1]


def duration(seconds: float | None) -> str:
    return "–" if seconds is None else human_duration(round(max(seconds, 0.0) * SECOND))


def usd(amount: float | None) -> str:
    return "no price" if amount is None else human_usd(round(amount * SECOND))


def rate(amount: float | None) -> str:
    """Dollars per hour, to a tenth of a cent: list prices have as many digits."""
    return "no price" if amount is None else f"${amount:,.3f}/h"


def size(count: int) -> str:
    return human_bytes(count)


def number(value: float) -> str:
    """A metric: six significant digits."""
    return f"{value:.6g}"


def parameter(text: str) -> str:
    """Of a trial: numbers to six digits, everything else as it is."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text


def amount(value: float) -> str:
    """Of a quota: `2.5`, whole numbers as they are."""
    return f"{value:.15g}"


def moment(text: str | None) -> datetime | None:
    """ISO 8601 -> the host's own time zone."""
    return datetime.fromisoformat(text).astimezone() if text else None


def clock(text: str | None) -> str:
    at = moment(text)
    return at.strftime("%H:%M:%S") if at else "–"


def full(text: str | None) -> str:
    at = moment(text)
    return at.strftime("%A %d %B %Y, %H:%M:%S %Z") if at else ""


def ago(text: str | None, now: int) -> str:
    """In the largest unit: `4 s ago`, `2 h ago`."""
    at = moment(text)
    if at is None:
        return "–"
    seconds = max(int(now / SECOND - at.timestamp()), 0)
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def until(text: str | None, now: int) -> str:
    """`in 4 min`; what has passed, or comes within a second, is `now`."""
    at = moment(text)
    if at is None:
        return "not known"
    left = at.timestamp() - now / SECOND
    return f"in {duration(left)}" if left >= 1 else "now"


def since(text: str | None, now: int) -> str:
    at = moment(text)
    return "–" if at is None else duration(now / SECOND - at.astimezone(UTC).timestamp())
