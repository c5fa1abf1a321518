"""`Microsoft.Authorization` at every scope: role definitions, role assignments, permissions, checkAccess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from starlette.responses import Response

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.people import access, principals, roles
from tidemill.app.people.roles import AssignmentDraft, Place, RoleDraft
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.ids import PROVIDER
from tidemill.domain.roles import Permission, RoleAssignment, RoleDefinition
from tidemill.wire.http import SIGNED_IN, Context, Route, json_response, resource_below

AUTHORIZATION = "Microsoft.Authorization"
ASSIGNMENTS = f"{AUTHORIZATION}/roleAssignments"
DEFINITIONS = f"{AUTHORIZATION}/roleDefinitions"
_WORKSPACE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}"
SCOPES = (
    "/subscriptions/{sub}",
    "/subscriptions/{sub}/resourceGroups/{rg}",
    _WORKSPACE,
    f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/registries/{{reg}}",
    *(f"{_WORKSPACE}/{type}/{{name}}" for type in roles.SINGLE),
)
_FILTERS = {
    "principal": re.compile(r"^principalId\s+eq\s+'(?P<value>[^']*)'$", re.IGNORECASE),
    "assigned": re.compile(r"^assignedTo\(\s*'(?P<value>[^']*)'\s*\)$", re.IGNORECASE),
    "name": re.compile(r"^roleName\s+eq\s+'(?P<value>[^']*)'$", re.IGNORECASE),
    "type": re.compile(r"^type\s+eq\s+'(?P<value>[^']*)'$", re.IGNORECASE),
    "at": re.compile(r"^atScope\(\)$", re.IGNORECASE),
    "below": re.compile(r"^atScopeAndBelow\(\)$", re.IGNORECASE),
}


def routes() -> list[Route]:
    found = [
        Route("GET", f"/providers/{DEFINITIONS}", f"{DEFINITIONS}/read", list_definitions),
        Route("GET", f"/providers/{DEFINITIONS}/{{id}}", f"{DEFINITIONS}/read", get_definition),
    ]
    for scope in SCOPES:
        base = f"{scope}/providers/{AUTHORIZATION}"
        one, role = f"{base}/roleAssignments/{{id}}", f"{base}/roleDefinitions/{{id}}"
        found += [
            Route("GET", f"{base}/roleAssignments", f"{ASSIGNMENTS}/read", list_assignments),
            Route("GET", one, f"{ASSIGNMENTS}/read", get_assignment),
            Route("PUT", one, f"{ASSIGNMENTS}/write", put_assignment),
            Route("DELETE", one, f"{ASSIGNMENTS}/delete", delete_assignment),
            Route("GET", f"{base}/roleDefinitions", f"{DEFINITIONS}/read", list_definitions),
            Route("GET", role, f"{DEFINITIONS}/read", get_definition),
            Route("PUT", role, f"{DEFINITIONS}/write", put_definition),
            Route("DELETE", role, f"{DEFINITIONS}/delete", delete_definition),
            # One's own; about others: only with the right to read assignments.
            Route("GET", f"{base}/permissions", SIGNED_IN, list_permissions),
            Route("POST", f"{base}/checkAccess", SIGNED_IN, check_access, reads=True),
        ]
    return found


def place_of(ctx: Context) -> Place:
    return Place(ctx.scope, resource_below(ctx.resource, ctx.params))


# Assignments.


async def list_assignments(ctx: Context) -> Response:
    """`$filter`: `atScope()`, `principalId eq '…'`, `assignedTo('…')`, joined by `and`."""
    wanted = _filters(ctx, ("at", "principal", "assigned"))
    rows = await roles.assignments_at(
        ctx.services,
        place_of(ctx),
        only_above="at" in wanted,
        holder=wanted.get("principal", ""),
        assigned_to=wanted.get("assigned", ""),
    )
    return json_response({"value": await _rendered(ctx.services, rows)})


async def get_assignment(ctx: Context) -> Response:
    return await _one(ctx, await roles.assignment(ctx.services, place_of(ctx), ctx.params["id"]))


async def put_assignment(ctx: Context) -> Response:
    body = _properties(await ctx.request.json())
    if body.get("condition"):
        raise NotOffered("Conditions of role assignments are not offered here. Leave 'condition' out.")
    for name in ("roleDefinitionId", "principalId"):
        if not body.get(name):
            raise InvalidRequest(f"properties.{name} is missing.", "MissingProperty", name)
    draft = AssignmentDraft(
        str(body["roleDefinitionId"]),
        str(body["principalId"]),
        str(body.get("principalType") or ""),
        str(body.get("description") or ""),
    )
    made, new = await roles.assign(ctx.services, ctx.caller, place_of(ctx), ctx.params["id"], draft)
    return await _one(ctx, made, 201 if new else 200)


async def delete_assignment(ctx: Context) -> Response:
    row = await ctx.services.store.read(lambda read: read.role_assignment(ctx.params["id"].lower()))
    if row is None:
        return Response(status_code=204)
    row = await roles.assignment(ctx.services, place_of(ctx), row.id)
    return await _one(ctx, await principals.remove_assignment(ctx.services, row.id))


async def _one(ctx: Context, row: RoleAssignment, status: int = 200) -> Response:
    return json_response((await _rendered(ctx.services, [row]))[0], status)


async def _rendered(services: Services, rows: Iterable[RoleAssignment]) -> list[dict[str, Any]]:
    index = await services.access.current()
    found: list[dict[str, Any]] = []
    for row in rows:
        who = index.principal(row.principal)
        properties = {
            "scope": row.scope,
            "roleDefinitionId": definition_id(services, row.role),
            "principalId": row.principal,
            "principalType": who.kind.arm if who else "Unknown",
            "createdOn": iso(row.created_at),
            "updatedOn": iso(row.created_at),
            "createdBy": row.created_by,
            "updatedBy": row.created_by,
        }
        if row.description:
            properties["description"] = row.description
        id = f"{row.scope}/providers/{ASSIGNMENTS}/{row.id}"
        found.append({"id": id, "name": row.id, "type": ASSIGNMENTS, "properties": properties})
    return found


# Definitions.


def definition_id(services: Services, role: str) -> str:
    return f"/subscriptions/{services.settings.subscription}/providers/{DEFINITIONS}/{role}"


async def list_definitions(ctx: Context) -> Response:
    """`$filter`: `roleName eq '…'`, `type eq 'CustomRole'`, `atScopeAndBelow()`, joined by `and`."""
    wanted = _filters(ctx, ("name", "type", "below", "at"))
    rows = await roles.definitions_at(ctx.services, place_of(ctx).arm_id)
    return json_response(
        {
            "value": [
                _definition(ctx.services, role)
                for role in rows
                if wanted.get("name", role.name).lower() == role.name.lower()
                and wanted.get("type", _type(role)).lower() == _type(role).lower()
            ]
        }
    )


async def get_definition(ctx: Context) -> Response:
    role = await roles.definition(ctx.services, place_of(ctx), ctx.params["id"])
    return json_response(_definition(ctx.services, role))


async def put_definition(ctx: Context) -> Response:
    body = _properties(await ctx.request.json())
    given = body.get("permissions") or []
    if not isinstance(given, list):
        raise InvalidRequest("properties.permissions is not a list.", target="permissions")
    draft = RoleDraft(
        str(body.get("roleName") or ""),
        tuple(_permission(entry) for entry in cast(list[Any], given)),
        tuple(scope.rstrip("/") for scope in _texts(body, "assignableScopes")),
        str(body.get("description") or ""),
    )
    role, new = await roles.define(ctx.services, ctx.caller, ctx.params["id"], draft)
    return json_response(_definition(ctx.services, role), 201 if new else 200)


async def delete_definition(ctx: Context) -> Response:
    role = await roles.undefine(ctx.services, ctx.caller, ctx.params["id"])
    return Response(status_code=204) if role is None else json_response(_definition(ctx.services, role))


def _type(role: RoleDefinition) -> str:
    return "BuiltInRole" if role.builtin else "CustomRole"


def _definition(services: Services, role: RoleDefinition) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "roleName": role.name,
        "type": _type(role),
        "description": role.description,
        "assignableScopes": role.assignable_scopes,
        "permissions": [permission_body(one) for one in role.permissions],
    }
    if not role.builtin:
        properties |= {"createdOn": iso(role.created_at), "updatedOn": iso(role.modified_at)}
        properties |= {"createdBy": role.created_by, "updatedBy": role.created_by}
    id = definition_id(services, role.id)
    return {"id": id, "name": role.id, "type": DEFINITIONS, "properties": properties}


def permission_body(one: Permission) -> dict[str, Any]:
    return {
        "actions": one.actions,
        "notActions": one.not_actions,
        "dataActions": one.data_actions,
        "notDataActions": one.not_data_actions,
    }


def _permission(entry: Any) -> Permission:
    if not isinstance(entry, Mapping):
        raise InvalidRequest("Each of properties.permissions must be an object.", target="permissions")
    body = cast(Mapping[str, Any], entry)
    names = ("actions", "notActions", "dataActions", "notDataActions")
    return Permission(*(_texts(body, name) for name in names))


def _texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = body.get(name) or []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in cast(list[Any], given)):
        raise InvalidRequest(f"{name} must be a list of texts.", target=name)
    return tuple(cast(list[str], given))


# Questions.


async def list_permissions(ctx: Context) -> Response:
    found = await roles.permissions_of(ctx.services, ctx.caller, place_of(ctx))
    return json_response({"value": [permission_body(one) for one in found]})


async def check_access(ctx: Context) -> Response:
    """`{"Subject": {"Attributes": {"ObjectId"}}, "Actions": [{"Id", "IsDataAction"}], "Resource": {"Id"}}`;
    without a subject the caller, without a resource the scope of the path. -> one answer for each action."""
    body = await ctx.request.json()
    place = _asked_place(ctx, body)
    attributes = object_at(object_at(body, "Subject"), "Attributes", "Subject.Attributes")
    oid = str(attributes.get("ObjectId") or "") or ctx.caller.oid
    if oid != ctx.caller.oid:
        await access.authorise(ctx.services, ctx.caller, f"{ASSIGNMENTS}/read", place.scope, place.below)
    index = await ctx.services.access.current()
    answers: list[dict[str, Any]] = []
    for asked in _asked_actions(body):
        action, data = str(asked.get("Id", "")), bool(asked.get("IsDataAction"))
        if oid == ctx.caller.oid:
            found = await access.decide(ctx.services, ctx.caller, action, place.scope, place.below, data=data)
        else:
            found = index.decide(oid, action, place.arm_id, data)
        answer: dict[str, Any] = {
            "actionId": action,
            "isDataAction": data,
            "accessDecision": "Allowed" if found.allowed else "NotAllowed",
            "reason": found.reason,
        }
        if found.assignment is not None:
            given = found.assignment
            answer["roleAssignment"] = {
                "id": f"{given.scope}/providers/{ASSIGNMENTS}/{given.id}",
                "roleDefinitionId": definition_id(ctx.services, given.role),
                "principalId": given.principal,
                "scope": given.scope,
            }
        answers.append(answer)
    return json_response({"value": answers})


def _asked_actions(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = body.get("Actions") or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidRequest("Actions must be a list of objects with an Id.", target="Actions")
    return cast(list[dict[str, Any]], found)


def _asked_place(ctx: Context, body: Mapping[str, Any]) -> Place:
    text = str(object_at(body, "Resource").get("Id") or "")
    if not text:
        return place_of(ctx)
    found = roles.parse_scope(text)
    if found is None:
        raise InvalidRequest(f"Resource.Id {text!r} is no scope of this home.", target="Resource.Id")
    return found


def _properties(body: Mapping[str, Any]) -> dict[str, Any]:
    """Newer dialects put them under `properties`; the first one did not."""
    inner = body.get("properties", body)
    if not isinstance(inner, dict):
        raise InvalidRequest("'properties' must be an object.", target="properties")
    return cast(dict[str, Any], inner)


def _filters(ctx: Context, known: tuple[str, ...]) -> dict[str, str]:
    """The terms of `$filter`. Raises InvalidRequest for one that this list does not know."""
    text = ctx.request.query.get("$filter", "").strip()
    found: dict[str, str] = {}
    for term in re.split(r"\s+and\s+", text, flags=re.IGNORECASE) if text else ():
        for name in known:
            match = _FILTERS[name].match(term.strip())
            if match is not None:
                found[name] = match.groupdict().get("value") or ""
                break
        else:
            raise InvalidRequest(
                f"The filter {term!r} is not understood here.", "UnsupportedFilter", "$filter"
            )
    return found
