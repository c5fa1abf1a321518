"""`Microsoft.ContainerInstance/containerGroups`, as azure-mgmt-containerinstance and `az container` speak."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Sequence
from dataclasses import replace

from starlette.responses import Response
from starlette.websockets import WebSocket

from tidemill.app.container_lines import Line, check_password
from tidemill.app.containers import container_groups, container_looking
from tidemill.app.containers.container_looking import ATTACH, EXEC, Seen, Target
from tidemill.app.containers.container_looking import PROVIDER as ACTION
from tidemill.app.rows.codec import encode
from tidemill.app.views import container_views
from tidemill.domain import looking
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import integer, mapping
from tidemill.domain.model import Resource
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.paging import base_url, next_link, read_page, split_page
from tidemill.wire.http import PUBLIC, UPGRADE, Context, Route, Upgrade, bytes_response, json_response
from tidemill.wire.talking import BEGIN_S, Place, Talk, entered, first_of, write_to

_PROVIDER = "providers/Microsoft.ContainerInstance/containerGroups"
SUBSCRIPTION = f"/subscriptions/{{sub}}/{_PROVIDER}"
GROUP = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/{_PROVIDER}"
ONE = GROUP + "/{name}"
CONTAINER = ONE + "/containers/{container}"
LINE = "/containers/lines/{id}"
STOP_S = 60.0  # that a `stop` waits for the end: Azure's answers when it has come
LOOK_S = 0.2  # for what a container that is attached to has written
_MOST_LINES = 1_000_000


def routes() -> list[Route]:
    return [
        Route("GET", SUBSCRIPTION, f"{ACTION}/read", _list_all),
        Route("GET", GROUP, f"{ACTION}/read", _list),
        Route("GET", ONE, f"{ACTION}/read", _get),
        Route("PUT", ONE, f"{ACTION}/write", _put),
        Route("PATCH", ONE, f"{ACTION}/write", _patch),
        Route("DELETE", ONE, f"{ACTION}/delete", _delete),
        Route("POST", ONE + "/start", f"{ACTION}/start/action", _start),
        Route("POST", ONE + "/stop", f"{ACTION}/stop/action", _stop),
        Route("POST", ONE + "/restart", f"{ACTION}/restart/action", _restart),
        Route("GET", CONTAINER + "/logs", f"{ACTION}/containers/logs/read", _logs),
        Route("POST", CONTAINER + "/exec", EXEC, _exec),
        Route("POST", CONTAINER + "/attach", ATTACH, _attach),
        Route(UPGRADE, LINE, PUBLIC, _take_up),
    ]


async def _rendered(ctx: Context, rows: Sequence[Resource]) -> list[bytes]:
    shown = await container_views.properties(ctx.services, rows)
    return [render(row, properties=encode(one)) for row, one in zip(rows, shown, strict=True)]


async def _list_all(ctx: Context) -> Response:
    rows = await container_groups.list_of(ctx.services, None)
    mine = [row for row in rows if row.key.scope.subscription == ctx.scope.subscription]
    return bytes_response(render_list(await _rendered(ctx, mine)))


async def _list(ctx: Context) -> Response:
    page = read_page(ctx.request)
    rows = await container_groups.list_of(ctx.services, ctx.scope, limit=page.limit + 1, after=page.after)
    shown, after = split_page(rows, page)
    return bytes_response(render_list(await _rendered(ctx, shown), next_link(ctx, after)))


async def _get(ctx: Context) -> Response:
    row = await container_groups.get(ctx.services, ctx.scope, ctx.params["name"])
    return bytes_response((await _rendered(ctx, [row]))[0])


async def _put(ctx: Context) -> Response:
    body = await ctx.request.json()
    row, created = await container_groups.put(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], body)
    headers = operations.operation_headers(ctx, operations.turn(row), with_location=False)
    return bytes_response((await _rendered(ctx, [row]))[0], 201 if created else 200, headers)


async def _patch(ctx: Context) -> Response:
    body = await ctx.request.json()
    row = await container_groups.patch_tags(ctx.services, ctx.scope, ctx.params["name"], body)
    return bytes_response((await _rendered(ctx, [row]))[0])


async def _delete(ctx: Context) -> Response:
    row = await container_groups.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))


async def _start(ctx: Context) -> Response:
    row = await container_groups.start(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return operations.accepted(ctx, operations.turn(row))


async def _restart(ctx: Context) -> Response:
    row = await container_groups.restart(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(None, 204, operations.operation_headers(ctx, operations.turn(row)))


async def _stop(ctx: Context) -> Response:
    row = await container_groups.stop(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    await container_groups.stopped(ctx.services, row, STOP_S)
    return Response(status_code=204)


async def _logs(ctx: Context) -> Response:
    query = ctx.request.query
    if query.get("timestamps", "").lower() == "true":
        raise NotOffered(
            "timestamps is not offered: a container writes its log by itself, and no line has a time. Let "
            "the program write it.",
            "timestamps",
        )
    tail = integer(query["tail"], 0, "tail", 0, _MOST_LINES) if query.get("tail") else None
    text = await container_looking.read_log(
        ctx.services, ctx.scope, ctx.params["name"], ctx.params["container"], tail
    )
    return json_response({"content": text})


async def _exec(ctx: Context) -> Response:
    body = await ctx.request.json()
    size = mapping(body.get("terminalSize"), "terminalSize")
    rows = integer(size.get("rows") or None, 24, "terminalSize.rows", 1, looking.MAX_SIDE)
    columns = integer(size.get("cols") or None, 80, "terminalSize.cols", 1, looking.MAX_SIDE)
    return await _offer(ctx, looking.command_line(body.get("command")), (rows, columns))


async def _attach(ctx: Context) -> Response:
    return await _offer(ctx, None, (0, 0))


async def _offer(ctx: Context, command: tuple[str, ...] | None, size: tuple[int, int]) -> Response:
    """A line that the password opens. Raises Conflict where the container does not run."""
    s, name, container = ctx.services, ctx.params["name"], ctx.params["container"]
    target = await container_looking.target_of(s, ctx.scope, name, container)
    offset = await container_looking.log_size(s, target.seen) if command is None else 0

    def make(digest: bytes, until: int) -> Line:
        return Line(
            ctx.caller, ctx.decision, ctx.scope, name, container, command, size, digest, until, offset
        )

    id, password = s.lines.add(s.clock.now(), make)
    address = f"{base_url(ctx)}{LINE.format(id=id)}"
    body = {"webSocketUri": f"ws{address.removeprefix('http')}", "password": password}
    return json_response(body, headers={"Cache-Control": "no-store"})


async def _take_up(ctx: Context) -> Response:
    """The first message is the password; then what is typed, and what comes back, are text."""
    s = ctx.services
    line = s.lines.take(ctx.params["id"], s.clock.now())
    target = await container_looking.target_of(s, line.scope, line.group, line.container)
    action = ATTACH if line.command is None else EXEC
    place = Place(
        action,
        f"{_PROVIDER}/{line.group}",
        lambda: container_looking.check_still(s, line.caller, action, target),
    )
    known = replace(ctx, caller=line.caller, scope=line.scope, decision=line.decision)

    async def talk(socket: WebSocket) -> None:
        what = "a look at its output" if line.command is None else "a session"
        await Talk(known, place, socket, what).hold(lambda talk: _hold(talk, line, target))

    return Upgrade(talk)


async def _hold(talk: Talk, line: Line, target: Target) -> str:
    try:
        async with asyncio.timeout(BEGIN_S):
            first = await talk.receive()
    except TimeoutError:
        raise InvalidRequest(f"The password did not come within {BEGIN_S:g} s.") from None
    check_password(line, first if isinstance(first, str) else first.decode("utf-8", "replace"))
    if line.command is None:
        return await first_of(_follow(talk, target.seen, line.offset), _until_gone(talk))
    wanted = looking.Begin(line.command, line.size, "xterm")
    inside = await entered(talk, target.node_id, target.task, wanted)

    async def typed() -> str:
        while True:
            message = await talk.receive()
            await write_to(inside, message.encode() if isinstance(message, str) else message)

    async def written() -> str:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await inside.read(1):
            if text := decoder.decode(data):
                await talk.send_text(text)
        exit_code = await inside.wait()
        return "the container ended" if exit_code is None else f"exit code {exit_code}"

    try:
        await inside.started()
        why = await first_of(written(), typed())
    finally:
        inside.close()
    await talk.close()
    return why


async def _follow(talk: Talk, seen: Seen, offset: int) -> str:
    """What the container writes from then on, until it has ended or the line may not go on."""
    s, decoder = talk.ctx.services, codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        raw, ended = await container_looking.read_on(s, seen, offset)
        offset += len(raw)
        if text := decoder.decode(raw):
            await talk.send_text(text)
            continue
        if ended:
            await talk.close()
            return "the container ended"
        await asyncio.sleep(LOOK_S)


async def _until_gone(talk: Talk) -> str:
    while True:
        await talk.receive()  # what is typed goes nowhere
