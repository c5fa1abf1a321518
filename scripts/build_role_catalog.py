"""Makes Tidemill's table of Azure's built-in roles from the gathered facts.

    python scripts/build_role_catalog.py ../shared/data/builtin_roles.json OUT

OUT is src/tidemill/catalog/data/roles.toml.

Tidemill's own role for running jobs is added by hand in catalog/roles.py, not here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """\
# Azure's built-in roles, with Azure's own GUIDs. Made by scripts/build_role_catalog.py from the built-in role
# pages of MicrosoftDocs (CC BY 4.0); see README.md beside this file.
"""
FIELDS = (
    ("actions", "actions"),
    ("not_actions", "notActions"),
    ("data_actions", "dataActions"),
    ("not_data_actions", "notDataActions"),
)


def role_text(role: dict[str, Any]) -> str:
    properties = role["properties"]
    (permission,) = properties["permissions"]
    lines = [
        "[[role]]",
        f"id = {json.dumps(role['name'])}",
        f"name = {json.dumps(properties['roleName'])}",
        f"description = {json.dumps(properties['description'])}",
    ]
    for ours, theirs in FIELDS:
        patterns = permission.get(theirs) or []
        if len(patterns) == 1:
            lines.append(f"{ours} = [{json.dumps(patterns[0])}]")
        elif patterns:
            lines += [f"{ours} = [", *(f"    {json.dumps(p)}," for p in patterns), "]"]
    return "\n".join(lines) + "\n"


def main(source: str, target: str) -> None:
    roles = json.loads(Path(source).read_text())
    Path(target).write_text("\n".join([HEAD, *map(role_text, roles)]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
