"""Signing in to a remote server, and access tokens for as long as that lasts."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from tidemill.cli.errors import REFUSED, CliError
from tidemill.cli.remote.clienthome import ClientHome
from tidemill.cli.remote.trust import Wire

CLIENT_ID = "tidemill-cli"
TOKEN_PATH = "/adfs/oauth2/token"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
RESOURCE = "https://management.azure.com"
_BROWSER_S = 300.0
_EARLY_S = 300.0  # a token is given out only while it is good for longer


class SignedOut(CliError):
    def __init__(self, why: str) -> None:
        super().__init__(f"{why} Sign in: tidemill login", REFUSED, "SignedOut")


def by_password(wire: Wire, user: str, password: str) -> dict[str, Any]:
    """-> what ClientHome stores. Raises CliError with the server's reason."""
    answer = _grant(wire, {"grant_type": "password", "username": user, "password": password})
    return _kept(answer, user)


def by_secret(wire: Wire, client_id: str, secret: str) -> dict[str, Any]:
    """A program has no refresh token: its secret is kept instead."""
    kept = {"kind": "secret", "client_id": client_id, "secret": secret}
    _grant(wire, _secret_form(kept))
    return kept


def by_device(wire: Wire, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """`show` gets the device answer (user_code, …) once; then waits until a person allowed it."""
    status, body = wire.send(
        "POST", "/adfs/oauth2/devicecode", {"client_id": CLIENT_ID, "resource": RESOURCE}
    )
    if status != 200:
        raise CliError(_reason(body, status), REFUSED)
    device = json.loads(body)
    show(device)
    until = time.monotonic() + float(device["expires_in"])
    interval = float(device["interval"])
    while time.monotonic() < until:
        time.sleep(interval)
        form = {"grant_type": DEVICE_GRANT, "device_code": device["device_code"]}
        status, body = wire.send("POST", TOKEN_PATH, {**form, "client_id": CLIENT_ID, "resource": RESOURCE})
        if status == 200:
            return _kept(json.loads(body), "")
        word = json.loads(body).get("error")
        if word == "slow_down":
            interval += 1
        elif word != "authorization_pending":
            raise CliError(_reason(body, status), REFUSED, "SignInFailed")
    raise CliError("Nobody signed in while the code was good. Start again.", REFUSED, "SignInFailed")


def by_loopback(wire: Wire, portal: str, show: Callable[[str], None]) -> dict[str, Any]:
    """With a browser of this machine (RFC 8252): `show` gets the address to open, below `portal`; the answer
    comes back to a port of ours, and only who knows the verifier can use its code."""
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    got: dict[str, str] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = dict(parse_qsl(urlsplit(self.path).query))
            mine = secrets.compare_digest(query.get("state", ""), state)
            if mine:
                got.update(query)
            text = b"Done. You can close this window." if mine else b"This was not asked for."
            self.send_response(200 if mine else 400)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass  # the address has the code in it

    with HTTPServer(("127.0.0.1", 0), Answer) as waiting:
        target = f"http://127.0.0.1:{waiting.server_port}/done"
        asked = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": target,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "state": state,
        }
        show(f"{portal}/ui/authorize?{urlencode(asked)}")
        until = time.monotonic() + _BROWSER_S
        while not got and time.monotonic() < until:
            waiting.timeout = max(until - time.monotonic(), 0)
            waiting.handle_request()
    if "code" not in got:
        why = got.get("error_description") or "Nobody signed in within five minutes."
        raise CliError(why, REFUSED, "SignInFailed")
    form = {"grant_type": "authorization_code", "code": got["code"], "redirect_uri": target}
    return _kept(_grant(wire, {**form, "code_verifier": verifier}), "")


def sign_out(wire: Wire, home: ClientHome, everywhere: bool) -> None:
    """Ends the sign-in at the server and forgets it here."""
    kept = home.sign_in()
    if kept is not None and everywhere:
        token = TokenSource(home, wire).token(RESOURCE)[0]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        status, body = wire.send("POST", "/api/v1/access/me/signOut?everywhere=true", None, headers)
        if status != 200:
            raise CliError(_reason(body, status), REFUSED)
    elif kept is not None and kept["kind"] == "refresh":
        wire.send("POST", "/adfs/oauth2/revoke", {"token": kept["refresh_token"]})
    home.forget_sign_in()


class TokenSource:
    """Access tokens by resource, from what the home keeps. Safe from several threads: refresh tokens are good
    once, so one thread refreshes at a time, and stores the next before anything else."""

    def __init__(self, home: ClientHome, wire: Wire) -> None:
        self._home, self._wire = home, wire
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[str, float]] = {}
        self._from: dict[str, Any] | None = None

    def token(self, resource: str) -> tuple[str, float]:
        """-> (token, seconds since the epoch when it ends). Raises SignedOut, ServerGone, CliError."""
        with self._lock:
            kept = self._home.sign_in()
            if kept is None:
                raise SignedOut("You are signed out here.")
            if kept != self._from:
                self._cached.clear()  # somebody signed in anew
                self._from = kept
            held = self._cached.get(resource)
            if held is None or held[1] - time.time() < _EARLY_S:
                held = self._cached[resource] = self._ask(kept, resource)
            return held

    def _ask(self, kept: dict[str, Any], resource: str) -> tuple[str, float]:
        asked = time.time()
        if kept["kind"] == "secret":
            answer = _grant(self._wire, {**_secret_form(kept), "resource": resource})
        else:
            form = {"grant_type": "refresh_token", "refresh_token": kept["refresh_token"]}
            answer = _grant(self._wire, {**form, "resource": resource})
            following = {**kept, "refresh_token": answer["refresh_token"]}
            if self._home.sign_in() == kept:  # else somebody signed in or out meanwhile
                self._home.save_sign_in(following)
                self._from = following
        return answer["access_token"], asked + float(answer["expires_in"])


def _secret_form(kept: dict[str, Any]) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_id": kept["client_id"],
        "client_secret": kept["secret"],
    }


def _grant(wire: Wire, form: dict[str, str]) -> dict[str, Any]:
    status, body = wire.send("POST", TOKEN_PATH, {"client_id": CLIENT_ID, "resource": RESOURCE, **form})
    if status == 200:
        return json.loads(body)
    if form["grant_type"] == "refresh_token" and status == 400:
        raise SignedOut(_reason(body, status))
    raise CliError(_reason(body, status), REFUSED, "SignInFailed")


def _kept(answer: dict[str, Any], user: str) -> dict[str, Any]:
    return {"kind": "refresh", "user": user, "refresh_token": answer["refresh_token"]}


def _reason(body: bytes, status: int) -> str:
    try:
        found = json.loads(body)
        error = found.get("error")
        return found.get("error_description") or (error or {}).get("message") or str(error)
    except (ValueError, AttributeError):
        return f"The server answered {status}."
