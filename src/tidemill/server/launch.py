"""What the commands `up`, `down`, `status` and `env` do. Nothing here imports the server itself before it
has to run in this process."""

from __future__ import annotations

import http.client
import json
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, TidemillError
from tidemill.domain.isolation import Limit
from tidemill.server import home as homes
from tidemill.server.lock import holder

if TYPE_CHECKING:
    from tidemill.engines.base import Runtime

READY_S = 90.0
STOP_S = 15.0
FORMATS = ("sh", "powershell", "json")


def up(
    home: Path,
    *,
    https_port: int | None = None,
    http_port: int | None = None,
    data_port: int | None = None,
    gateway_port: int | None = None,
    database: str | None = None,
    region: str = "",
    capacity: str = "",
    listen: str | None = None,
    name: str | None = None,
    certificate: str = "",
    key: str = "",
    images: str = "",
    isolation: str = "",
    require_isolation: str = "",
    keep_root: bool = False,
    detach: bool = False,
    on_ready: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Starts the server of `home`. Detached: returns what server.json says once everything answers.
    Else serves in this process until a signal, calling `on_ready` with the same. Raises TidemillError:
    Conflict for a home in use (naming the pid) or a taken port (naming the flag)."""
    options: dict[str, Any] = {
        "home": Path(home).expanduser().absolute(),
        "https_port": https_port,
        "http_port": http_port,
        "data_port": data_port,
        "gateway_port": gateway_port,
        "database": database,
        "region": region,
        "capacity": capacity,
        "listen": listen,
        "name": name,
        "certificate": certificate,
        "key": key,
        "images": images,
        "isolation": isolation,
        "require_isolation": require_isolation,
        "keep_root": keep_root,
    }
    if detach:
        state = _spawn(options)
        if on_ready is not None:
            on_ready(state)
        return state
    from tidemill.server import control

    seen: dict[str, Any] = {}

    def ready(state: dict[str, Any]) -> None:
        seen.update(state)
        if on_ready is not None:
            on_ready(state)

    control.run(control.Options(**options), ready)
    return seen


def _spawn(options: dict[str, Any]) -> dict[str, Any]:
    home = _prepare(options["home"])
    read_end, write_end = os.pipe()
    argv = [sys.executable, "-m", "tidemill.server.control", "--ready-fd", str(write_end)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            argv.append(flag)
        elif value is not False and value not in (None, ""):
            argv += [flag, str(value)]
    with _log_of(home) as log:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[write_end],
            start_new_session=True,
        )
    os.close(write_end)
    try:
        outcome = _read_line(read_end, READY_S)
    finally:
        os.close(read_end)
    if outcome and "ready" in outcome:
        child.returncode = 0  # it lives on; it is not ours to wait for
        return outcome["ready"]
    if outcome is None:
        child.kill()
    child.wait(STOP_S)  # it holds the home's lock until then
    _end_helper(home)
    error = (outcome or {}).get("error")
    if error:
        raise TidemillError(error["message"], error["code"], error["target"], status=409)
    raise TidemillError(
        f"The server did not start. Its log has the reason: {home.logs / 'control.log'}",
        "StartFailed",
        status=500,
    )


def _end_helper(home: homes.Home) -> None:
    """A start that failed leaves nothing of root's running, if no other server has the home."""
    if os.geteuid() == 0 and holder(home.lock) is None:
        from tidemill.server import helper_process

        helper_process.stop(home.root.resolve())


def _prepare(root: Path) -> homes.Home:
    """Its folders are the server's to make, where this process is root: see server/privileges.py."""
    if os.geteuid() != 0:
        return homes.prepare(root)
    from tidemill.server import privileges

    privileges.lay_home(root)
    homes.check_content(homes.Home(root))
    return homes.Home(root)


def _log_of(home: homes.Home) -> IO[bytes]:
    """By no link: the folder is the server's, which may be another user."""
    home.logs.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(home.logs / "control.log", flags, 0o600), "ab")


def _read_line(descriptor: int, seconds: float) -> dict[str, Any] | None:
    """The JSON line that the server writes; {} when it ended without one; None when time ran out."""
    text, until = b"", time.monotonic() + seconds
    while not text.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return {}
        text += chunk
    return json.loads(text)


def down(home: Path) -> dict[str, Any]:
    """Stops the server of `home`, its data process and its gateway, also when only some of them are left; or
    its connection. -> {"stopped": [pids]}; nothing running is no error. Jobs' agents are not touched."""
    from tidemill.server import side

    where = homes.Home(Path(home).expanduser().absolute())
    if not where.root.exists():
        return {"stopped": []}
    stopped: list[int] = []
    # A server that ends well takes them along. The home of a connection has none.
    kinds = side.KINDS if where.config.exists() else ()
    beside = [(state["pid"], where.root / kind.state) for kind in kinds if (state := side.find(where, kind))]
    pid = holder(where.lock)
    for found, file in ((pid, where.lock), *beside):
        if found and not _may_be_ended(found, file):
            raise Conflict(f"Process {found} is not of this home's server, as {file} says.", "StopFailed")
    if pid is not None:
        if not side.terminate(pid, STOP_S):
            raise Conflict(f"The server (pid {pid}) does not end.", "StopFailed")
        stopped.append(pid)
    for found, _ in beside:
        side.terminate(found, side.STOP_S)
        stopped.append(found)
    where.server_json.unlink(missing_ok=True)
    if os.geteuid() == 0:
        from tidemill.sandbox import cgroups
        from tidemill.server import helper_process, privileges

        helper_process.stop(where.root.resolve())
        for directory in cgroups.stale(privileges.server_group(where.root.resolve())):
            cgroups.remove(directory)
    return {"stopped": stopped}


def _may_be_ended(pid: int, file: Path) -> bool:
    """As root: the file that says which process it is may be another user's, and so must the process be."""
    from tidemill.server import side

    if os.geteuid() != 0:
        return True
    return side.user_of(pid) in (file.lstat().st_uid, None)


def status(home: Path) -> dict[str, Any]:
    """What runs on `home`: {"up": false, "home"}, or {"up": true, "answers"} with what server.json says and
    what `GET /api/v1/status` answers. "answers" is false for one that holds the lock but does not answer."""
    where = homes.Home(Path(home).expanduser().absolute())
    pid = holder(where.lock)
    if pid is None:
        return {"up": False, "home": str(where.root)}
    state = homes.read_server(where) or {}
    known = {"up": True, "home": str(where.root), "pid": pid, **state}
    if not state:
        return {**known, "answers": False}
    try:
        answer = _get(state["addresses"]["http"], "/api/v1/status", _token(where, state))
        return {**answer, **known, "answers": True}  # pid and home of a connection are its own
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {**known, "answers": False, "problem": str(error)}


def _token(home: homes.Home, state: dict[str, Any]) -> dict[str, str]:
    """The header with a token of the home's owner, or of who is signed in on a connection; got with the
    home's secret."""
    secret = (home.secrets / "identity.header").read_text().strip()
    base = state.get("identity", state["addresses"]["http"])
    path = "/msi/token?resource=https://management.azure.com/"
    return {"Authorization": "Bearer " + _get(base, path, {"X-IDENTITY-HEADER": secret})["access_token"]}


def _get(base: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        body = json.loads(reply.read())
        if reply.status != 200:
            raise ValueError(body.get("error", {}).get("message", f"status {reply.status}"))
        return body
    finally:
        connection.close()


def env(home: Path, format: str = "sh") -> str:
    """The variables that point Azure's clients here, ready for `eval "$(…)"` (sh), `| iex` (powershell)
    or a program (json). IDENTITY_HEADER is a secret of the user. Raises NotFound when nothing runs."""
    if format not in FORMATS:
        raise InvalidRequest(f"--format {format!r} is not one of {', '.join(FORMATS)}.", target="--format")
    values = variables(home)
    if format == "json":
        return json.dumps(values, indent=2) + "\n"
    if format == "powershell":
        return "".join("$env:{} = '{}'\n".format(name, v.replace("'", "''")) for name, v in values.items())
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def tried(home: Path) -> tuple[dict[str, Limit], dict[str, Runtime]]:
    """The limits of a node that is opened on this host and closed again, and what can run containers there.
    No server is needed, and one that runs is not disturbed. Raises TidemillError when none can be opened."""
    import asyncio

    from tidemill.engines.base import EngineError
    from tidemill.engines.local import LocalEngine
    from tidemill.server.ports import SystemClock

    async def ask(folder: str) -> tuple[dict[str, Limit], dict[str, Runtime]]:
        engine = LocalEngine(Path(folder), clock=SystemClock())
        return dict(await engine.isolation()), dict(await engine.runtimes())

    # Beside the home, where there is one: its disk is the one that counts.
    place = home if home.is_dir() and os.access(home, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=place) as folder:
        try:
            return asyncio.run(ask(folder))
        except EngineError as error:
            raise TidemillError(str(error), "NoNode", status=409) from None


def why_root(home: Path) -> str | None:
    """Why a server that this user starts keeps root; "" where it gives it up, None for who is not root."""
    if os.geteuid() != 0:
        return None
    from tidemill.server import privileges

    place = home if home.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=place) as folder:
        return privileges.why_not(Path(folder))


def variables(home: Path) -> dict[str, str]:
    """Name -> value of everything `env` prints. Raises NotFound when no server runs on `home`."""
    where = homes.Home(Path(home).expanduser().absolute())
    state = homes.read_server(where)
    if state is None or holder(where.lock) is None:
        connection = (where.root / "client.json").exists()
        what, start = ("connection is open", "connect") if connection else ("server runs", "up")
        raise NotFound(
            f"No {what} on the home {where.root}. Start it: tidemill {start} --home {where.root} --detach",
            "ServerNotRunning",
        )
    https, plain, scope = state["addresses"]["https"], state["addresses"]["http"], state["workspace"]
    bundle = str(where.tls / "ca-bundle.pem")
    return {
        "ARM_CLOUD_METADATA_URL": f"{https}/metadata/endpoints?api-version=2019-05-01",
        "IDENTITY_ENDPOINT": f"{state.get('identity', plain)}/msi/token",
        "IDENTITY_HEADER": (where.secrets / "identity.header").read_text().strip(),
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "AZUREML_DEV_URL_MFE": https,
        "AZUREML_CURRENT_CLOUD": "LocalAML",
        "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{https}/",
        "AZURE_SUBSCRIPTION_ID": scope["subscription"],
        "AZURE_RESOURCE_GROUP": scope["group"],
        "AZUREML_WORKSPACE_NAME": scope["name"],
        "ML_SUBSCRIPTION_ID": scope["subscription"],
        "ML_RESOURCE_GROUP": scope["group"],
        "ML_WORKSPACE_NAME": scope["name"],
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "AZUREML_RUN_POLLING_INTERVAL_MAX": "2",
        "TIDEMILL_HOME": str(where.root),
    }
