"""The part of Docker's Engine API (1.43) that azure-ai-ml's local deployments use, through docker-py."""

from __future__ import annotations

import asyncio
import json
import platform
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import IO, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tidemill.cli.local.containers import HOST, RUNNING, Container, Containers
from tidemill.cli.local.images import Image, Images
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered, TidemillError

API, OLDEST = "1.43", "1.24"
SPOOLED = 16 << 20  # bytes of a build context that stay in memory


class Docker:
    def __init__(self, images: Images, containers: Containers) -> None:
        self._images = images
        self._containers = containers

    def application(self) -> Starlette:
        paths = [
            ("GET", "/_ping", self._ping),
            ("GET", "/version", self._version),
            ("POST", "/build", self._build),
            ("GET", "/images/json", self._list_images),
            ("POST", "/images/create", self._pull),
            ("GET", "/images/{name:path}/json", self._image),
            ("GET", "/containers/json", self._list),
            ("POST", "/containers/create", self._create),
            ("GET", "/containers/{id}/json", self._inspect),
            ("GET", "/containers/{id}/logs", self._logs),
            ("POST", "/containers/{id}/start", self._start),
            ("POST", "/containers/{id}/stop", self._stop),
            ("DELETE", "/containers/{id}", self._remove),
        ]
        # docker-py asks for the version without a version, then says the version in each path.
        routes = [
            Route(before + path, answer, methods=[method])
            for before in ("", "/v{api}")
            for method, path, answer in paths
        ]
        return Starlette(
            routes=[
                *routes,
                Route("/{rest:path}", _unknown, methods=["GET", "POST", "PUT", "DELETE", "HEAD"]),
            ],
            exception_handlers={TidemillError: _refused},
        )

    async def _ping(self, _: Request) -> Response:
        return Response("OK", headers={"API-Version": API, "OSType": "linux"}, media_type="text/plain")

    async def _version(self, _: Request) -> Response:
        about = {"ApiVersion": API, "MinAPIVersion": OLDEST, "Version": "tidemill", "Os": "linux"}
        return JSONResponse({**about, "Arch": platform.machine(), "KernelVersion": platform.release()})

    async def _build(self, request: Request) -> Response:
        context = tempfile.SpooledTemporaryFile(SPOOLED)  # noqa: SIM115 - the answer closes it
        async for part in request.stream():
            await asyncio.to_thread(context.write, part)
        asked = request.query_params
        # For a Dockerfile from outside the context docker-py says it twice: its name in there, and its text.
        name = next(iter(asked.getlist("dockerfile")), "") or "Dockerfile"
        told = self._told(context, name, asked.get("t") or "local")
        return StreamingResponse(told, media_type="application/json")

    async def _told(self, context: IO[bytes], name: str, tag: str) -> AsyncIterator[bytes]:
        """Lines of the build as they come. What goes wrong is its last one: the answer has begun."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        async def build() -> Image:
            try:
                return await self._images.build(context, name, tag, lines.put_nowait)
            finally:
                lines.put_nowait(None)

        task = asyncio.create_task(build())
        try:
            while (line := await lines.get()) is not None:
                yield _line(stream=f"{line}\n")
            image = await task
            yield _line(aux={"ID": image.id})
            yield _line(stream=f"Successfully built {image.id.removeprefix('sha256:')[:12]}\n")
        except TidemillError as error:
            yield _line(error=error.message, errorDetail={"message": error.message})
        finally:
            task.cancel()
            context.close()

    async def _list_images(self, _: Request) -> Response:
        return JSONResponse([_image_body(image) for image in self._images.all()])

    async def _image(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            return JSONResponse(_image_body(self._images.find(name)))
        except NotFound:
            raise own_server(name) from None

    async def _pull(self, request: Request) -> Response:
        raise own_server(request.query_params.get("fromImage", ""))

    async def _list(self, request: Request) -> Response:
        asked = request.query_params
        filters = json.loads(asked.get("filters") or "{}")
        labels = filters.get("label") or []
        stopped = asked.get("all", "0").lower() in ("1", "true")
        return JSONResponse([_summary(one) for one in self._containers.all(labels, stopped)])

    async def _create(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise InvalidRequest("The body is not JSON, or no object.")
        made = self._containers.create(request.query_params.get("name", ""), body)
        return JSONResponse({"Id": made.id, "Warnings": []}, status_code=201)

    async def _inspect(self, request: Request) -> Response:
        return JSONResponse(_details(self._containers.get(request.path_params["id"])))

    async def _logs(self, request: Request) -> Response:
        asked = request.query_params
        if asked.get("follow", "0").lower() in ("1", "true"):
            raise InvalidRequest("Logs are not followed here: ask again for more.", "FollowNotOffered")
        tail = asked.get("tail", "all")
        lines = int(tail) if tail.isdigit() else None
        text = await asyncio.to_thread(self._containers.log, request.path_params["id"], lines)
        return Response(text, media_type="application/vnd.docker.raw-stream")

    async def _start(self, request: Request) -> Response:
        await self._containers.start(request.path_params["id"])
        return Response(status_code=204)

    async def _stop(self, request: Request) -> Response:
        grace = request.query_params.get("t", "10")
        await self._containers.stop(request.path_params["id"], float(grace) if grace.isdigit() else 10.0)
        return Response(status_code=204)

    async def _remove(self, request: Request) -> Response:
        force = request.query_params.get("force", "0").lower() in ("1", "true")
        await self._containers.remove(request.path_params["id"], force)
        return Response(status_code=204)


def _line(**value: Any) -> bytes:
    return json.dumps(value).encode() + b"\r\n"


def own_server(image: str) -> NotOffered:
    """Images that are asked for by name are those that serve by themselves."""
    return NotOffered(
        f"Image {image} brings a server of its own, which only Docker could run on this machine. Deploy it "
        "to an online endpoint (local=False): images run there."
    )


async def _unknown(request: Request) -> Response:
    text = (
        f"{request.method} {request.url.path}: there is no Docker here. `tidemill local` answers what local "
        "deployments of the Azure ML SDK ask for, nothing else."
    )
    return JSONResponse({"message": text}, status_code=501)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, TidemillError)
    return JSONResponse({"message": error.message}, status_code=error.status)


def _image_body(image: Image) -> dict[str, Any]:
    return {"Id": image.id, "RepoTags": [image.tag], "Created": int(image.created), "Size": 0, "Labels": {}}


def _ports(one: Container) -> dict[str, Any]:
    inside = one.labels.get("azureml-port") or "5001"
    return {f"{inside}/tcp": [{"HostIp": HOST, "HostPort": str(one.port)}] if one.port else None}


def _summary(one: Container) -> dict[str, Any]:
    return {
        "Id": one.id,
        "Names": [f"/{one.name}"],
        "Image": one.image,
        "Created": int(one.created),
        "State": one.status,
        "Status": one.status,
        "Labels": dict(one.labels),
    }


def _details(one: Container) -> dict[str, Any]:
    return {
        "Id": one.id,
        "Name": f"/{one.name}",
        "Created": _time(one.created),
        "Image": one.image,
        "State": {
            "Status": one.status,
            "Running": one.status == RUNNING,
            "Pid": one.pid,
            "ExitCode": one.exit_code,
            "StartedAt": _time(one.started),
            "FinishedAt": _time(one.finished),
        },
        "Config": {
            "Image": one.image,
            "Labels": dict(one.labels),
            "Env": [f"{name}={value}" for name, value in one.variables.items()],
            "Tty": True,  # so its log is raw bytes
        },
        "HostConfig": {"Binds": [f"{here}:{there}" for there, here in one.binds.items()]},
        "NetworkSettings": {"Ports": _ports(one)},
        "Mounts": [],
    }


def _time(seconds: float) -> str:
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
