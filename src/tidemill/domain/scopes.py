"""Scopes as people read them."""

from __future__ import annotations

import re

_SCOPE = re.compile(r"/subscriptions/[^\s,;'\"]*[^\s,;.'\"]")


def scope_words(arm_id: str) -> str:
    """A scope of roles: `subscription`, `group tidemill`, `workspace main`, `computes/cpu of workspace main`;
    any other ARM id as it is."""
    parts = arm_id.strip("/").split("/")
    if len(parts) < 3:
        return "subscription" if parts[0] else "everything"
    if len(parts) == 4:
        return f"group {parts[3]}"
    kind = (
        {"workspaces": "workspace", "registries": "registry"}.get(parts[6].lower())
        if len(parts) > 7
        else None
    )
    if kind is None:
        return arm_id
    below = "/".join(parts[8:])
    return f"{below} of {kind} {parts[7]}" if below else f"{kind} {parts[7]}"


def in_words(text: str) -> str:
    """A sentence, with scopes in words."""
    return _SCOPE.sub(lambda found: scope_words(found[0]), text)
