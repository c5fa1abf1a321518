"""`{workspace}/computes`, vmSizes and usages: translation between ARM's shape and app.computes.computes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from starlette.responses import Response

from tidemill.app.computes import computes
from tidemill.app.computes.computes import ComputeView
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.times import iso
from tidemill.catalog.sizes import GIB, HOST, VmSize
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Node, NodeState
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.etag import check_conditions, etag
from tidemill.wire.arm.paging import next_link, read_page
from tidemill.wire.http import Context, Route, bytes_response, json_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/computes"
LOCATION = f"/subscriptions/{{sub}}/providers/{PROVIDER}/locations/{{loc}}"
ACTION = f"{PROVIDER}/workspaces/computes"

# NodeState -> the word of ARM's nodeStateCounts and of a node's nodeState.
WORDS = {
    NodeState.OPENING: "preparing",
    NodeState.IDLE: "idle",
    NodeState.RUNNING: "running",
    NodeState.PARKED: "idle",
    NodeState.CLOSING: "leaving",
    NodeState.LOST: "unusable",
}
COUNTED = ("idle", "leaving", "preempted", "preparing", "running", "unusable")


def routes() -> list[Route]:
    one = BASE + "/{name}"
    return [
        Route("GET", BASE, f"{ACTION}/read", list_computes, partial=True),
        Route("GET", one, f"{ACTION}/read", get_compute),
        Route("PUT", one, f"{ACTION}/write", put_compute),
        Route("PATCH", one, f"{ACTION}/write", patch_compute),
        Route("DELETE", one, f"{ACTION}/delete", delete_compute),
        Route("POST", one + "/listNodes", f"{ACTION}/listNodes/action", list_nodes),
        Route("GET", LOCATION + "/vmSizes", f"{PROVIDER}/locations/vmsizes/read", list_sizes),
    ]


@lru_cache(maxsize=256)
def render_compute(view: ComputeView) -> bytes:
    """The row with what is true of it now. Clients that wait read the same again and again."""
    row = view.row
    spec = decode_object(row.spec)
    spec["properties"] |= _live(view, int(spec["properties"]["scaleSettings"]["minNodeCount"]))
    spec |= {
        "provisioningState": row.state,
        "computeLocation": row.location,
        "createdOn": iso(row.created_at),
        "modifiedOn": iso(row.modified_at),
        "isAttachedCompute": False,
        "provisioningErrors": None,
    }
    spec.setdefault("disableLocalAuth", True)
    spec.setdefault("resourceId", None)
    extra = {**decode_object(row.status), "etag": etag(row)}
    return render(row, properties=encode(spec), extra=encode(extra))


def _live(view: ComputeView, minimum: int) -> dict[str, Any]:
    counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
    for node in view.nodes:
        counts[WORDS[node.state]] += 1
    wanted = len(view.nodes) - counts["leaving"] - counts["unusable"]
    if view.row.state != computes.DELETING:
        wanted = max(wanted, minimum)
    steady = wanted == len(view.nodes) and not counts["preparing"]
    return {
        "allocationState": "Steady" if steady else "Resizing",
        "allocationStateTransitionTime": iso(_changed_at(view)),
        "currentNodeCount": len(view.nodes),
        "targetNodeCount": wanted,
        "nodeStateCounts": {f"{word}NodeCount": count for word, count in counts.items()},
        "errors": None,
    }


def _changed_at(view: ComputeView) -> int:
    """When the set of nodes last changed, as far as live nodes tell."""
    return max([view.row.created_at, *(node.ready_at or node.created_at for node in view.nodes)])


async def list_computes(ctx: Context) -> Response:
    page = read_page(ctx.request)
    granted = ctx.part.granted if ctx.part is not None else None
    views = await computes.list_of(
        ctx.services, ctx.scope, limit=page.limit + 1, after=page.after, granted=granted
    )
    shown = views[: page.limit]
    after = shown[-1].row.uid if len(views) > page.limit else None
    return bytes_response(render_list(map(render_compute, shown), next_link(ctx, after)))


async def get_compute(ctx: Context) -> Response:
    view = await computes.get(ctx.services, ctx.scope, ctx.params["name"])
    return bytes_response(render_compute(view), headers={"ETag": etag(view.row)})


async def put_compute(ctx: Context) -> Response:
    name, body = ctx.params["name"], await ctx.request.json()
    if ctx.request.header("if-match") or ctx.request.header("if-none-match"):
        views = await computes.list_of(ctx.services, ctx.scope)
        rows = {view.row.key.name.casefold(): view.row for view in views}
        check_conditions(ctx.request, rows.get(name.casefold()))
    row, created = await computes.put(ctx.services, ctx.caller, ctx.scope, name, body)
    view = await computes.get(ctx.services, ctx.scope, row.key.name)
    return bytes_response(render_compute(view), 201 if created else 200)


async def patch_compute(ctx: Context) -> Response:
    row = await computes.patch(
        ctx.services, ctx.caller, ctx.scope, ctx.params["name"], await ctx.request.json()
    )
    return bytes_response(render_compute(await computes.get(ctx.services, ctx.scope, row.key.name)))


async def delete_compute(ctx: Context) -> Response:
    row = await computes.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    if row is None:
        return Response(status_code=204)
    if row.state != computes.DELETING:
        return Response(status_code=200)
    return operations.accepted(ctx, operations.gone(row))


async def list_nodes(ctx: Context) -> Response:
    lines = await computes.nodes_of(ctx.services, ctx.scope, ctx.params["name"])
    return json_response({"nodes": [_node(line.node, line.job) for line in lines]})


def _node(node: Node, job: str) -> dict[str, Any]:
    return {
        "nodeId": node.id,
        "nodeState": WORDS[node.state],
        "runId": job or None,
        "privateIpAddress": "127.0.0.1",
        "publicIpAddress": None,
        "port": None,
    }


async def list_sizes(ctx: Context) -> Response:
    region = ctx.params["loc"]
    return json_response({"value": [_size(size) for size in ctx.services.sizes.list(region)]})


def _size(size: VmSize) -> dict[str, Any]:
    return {
        "name": size.name,
        "family": size.family,
        "vCPUs": size.vcpus,
        "gpus": size.gpus,
        "osVhdSizeMB": 0,
        "maxResourceVolumeMB": size.temp_disk_gib * 1024,
        "memoryGB": round(size.memory / GIB, 2),
        "lowPriorityCapable": size.name != HOST,
        "premiumIO": size.premium_io,
        "supportedComputeTypes": ["AmlCompute"],
    }
