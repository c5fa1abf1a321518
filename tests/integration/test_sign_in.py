"""Signing in to a real server: passwords, secrets, certificates, refresh, revocation, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from jobserver import until

TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
PASSWORD = "correct horse battery"
RESOURCE = "https://management.azure.com"


def cli(home: Path, *words: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [TIDEMILL, "--home", str(home), *words]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done


def send(
    server: Any, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """A dict is sent as a form, unless the headers say JSON."""
    host, port = server.state["addresses"]["http"].removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    sent = dict(headers or {})
    raw = None
    if body is not None:
        as_json = sent.get("Content-Type") == "application/json"
        raw = (json.dumps(body) if as_json else urlencode(body)).encode()
        sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
    try:
        connection.request(method, path, body=raw, headers=sent)
        reply = connection.getresponse()
        text = reply.read()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, json.loads(text) if text[:1] in (b"{", b"[") else text, found
    finally:
        connection.close()


def token(server: Any, **form: str) -> tuple[int, Any, dict[str, str]]:
    return send(server, "POST", "/adfs/oauth2/token", form)


def sign_in(server: Any, name: str, password: str = PASSWORD) -> dict[str, Any]:
    status, answer, _ = token(
        server, grant_type="password", username=name, password=password, client_id="test", resource=RESOURCE
    )
    assert status == 200, answer
    return answer


def me(server: Any, access_token: str) -> tuple[int, Any]:
    return send(server, "GET", "/api/v1/access/me", None, {"Authorization": f"Bearer {access_token}"})[:2]


def refresh(server: Any, refresh_token: str) -> tuple[int, Any]:
    return token(
        server, grant_type="refresh_token", refresh_token=refresh_token, client_id="test", resource=RESOURCE
    )[:2]


@pytest.fixture(scope="module")
def user(server: Any) -> str:
    cli(server.home, "access", "create-user", "ann")
    cli(server.home, "access", "set-password", "ann", "--password-stdin", stdin=PASSWORD + "\n")
    return "ann"


@pytest.fixture
def somebody(server: Any) -> str:
    """A user of this test alone."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    cli(server.home, "access", "create-user", name)
    cli(server.home, "access", "set-password", name, "--password-stdin", stdin=PASSWORD + "\n")
    return name


def test_a_password_signs_in_and_no_secret_is_on_disk_in_clear(server: Any, user: str) -> None:
    answer = sign_in(server, user)
    assert me(server, answer["access_token"])[1]["name"] == "ann"
    assert answer["expires_in"] == 3600
    stored = b"".join(path.read_bytes() for path in (server.home / "db").iterdir())
    for secret in (PASSWORD, answer["access_token"], answer["refresh_token"]):
        assert secret.encode() not in stored
    logs = b"".join(path.read_bytes() for path in (server.home / "logs").iterdir())
    assert PASSWORD.encode() not in logs


def test_the_same_answer_for_a_wrong_password_and_nobody(server: Any, somebody: str) -> None:
    wrong = token(server, grant_type="password", username=somebody, password="x", client_id="t")
    nobody = token(server, grant_type="password", username="nobody-here", password="x", client_id="t")
    owner = token(server, grant_type="password", username=owner_name(server), password="x", client_id="t")
    assert [reply[:2] for reply in (wrong, nobody, owner)] == [
        (400, {"error": "invalid_grant", "error_description": "The user name or the password is wrong."})
    ] * 3


def owner_name(server: Any) -> str:
    people = json.loads(cli(server.home, "access", "list", "--principals", "-o", "json").stdout)
    oid = json.loads((server.home / "config.json").read_bytes())["owner_oid"]
    return next(one["name"] for one in people if one["oid"] == oid)


def test_guessing_is_slowed_for_that_name_and_for_nobody_else(server: Any, user: str, somebody: str) -> None:
    def guess(password: str = "guess") -> tuple[int, Any, dict[str, str]]:
        return token(server, grant_type="password", username=somebody, password=password, client_id="t")

    assert [guess()[0] for _ in range(5)] == [400] * 5
    # The wait begins with a second and doubles; so much is left of it that the next request comes within.
    status, answer, _ = until(
        lambda: (reply := guess()) and int(reply[2].get("retry-after", 0)) >= 2 and reply,
        what="a longer wait",
    )
    assert (status, answer["error"]) == (429, "temporarily_unavailable")
    # The right password must wait, too: else guessing could go on and watch for it.
    assert guess(PASSWORD)[0] == 429
    assert sign_in(server, user)


def test_a_user_without_password_and_weak_passwords(server: Any, somebody: str) -> None:
    done = cli(
        server.home, "access", "set-password", somebody, "--password-stdin", stdin="short\n", check=False
    )
    assert done.returncode == 4
    assert "It has 5 characters; use 10 or more" in done.stderr
    argv = [TIDEMILL, "--home", str(server.home), "access", "set-password", somebody]
    typed = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert typed.returncode == 2
    assert "--password-stdin" in typed.stderr


def test_refresh_tokens_rotate_and_a_lost_answer_may_be_repeated(server: Any, somebody: str) -> None:
    first = sign_in(server, somebody)
    status, second = refresh(server, first["refresh_token"])
    assert status == 200
    assert second["refresh_token"] != first["refresh_token"]
    assert refresh(server, first["refresh_token"])[1]["refresh_token"] == second["refresh_token"]
    status, third = refresh(server, second["refresh_token"])
    assert status == 200
    assert me(server, third["access_token"])[0] == 200


def test_a_refresh_token_used_again_ends_the_whole_sign_in(server: Any, somebody: str) -> None:
    first = sign_in(server, somebody)
    other = sign_in(server, somebody)
    _, second = refresh(server, first["refresh_token"])
    _, third = refresh(server, second["refresh_token"])
    status, answer = refresh(server, first["refresh_token"])
    assert (status, answer["error"]) == (400, "invalid_grant")
    assert "used twice" in answer["error_description"]
    assert refresh(server, third["refresh_token"])[0] == 400
    assert me(server, third["access_token"])[0] == 401
    assert me(server, other["access_token"])[0] == 200  # another sign-in of the same user


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text.replace("_1_", "_2_"),
        lambda text: "tmr_" + "0" * 32 + text[36:],
        lambda text: "nonsense",
        lambda text: "",
    ],
)
def test_forged_refresh_tokens(server: Any, user: str, change: Any) -> None:
    real = sign_in(server, user)
    status, answer = refresh(server, change(real["refresh_token"]))
    assert (status, answer["error"]) == (400, "invalid_grant")
    assert refresh(server, real["refresh_token"])[0] == 200  # a forgery ends nobody's sign-in


def test_a_refresh_for_a_resource_that_is_not_here_leaves_the_refresh_token_as_it_was(
    server: Any, somebody: str
) -> None:
    first = sign_in(server, somebody)
    asked = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "client_id": "test"}
    status, answer, _ = token(server, **asked, resource="https://graph.microsoft.com")
    assert (status, answer["error"]) == (400, "invalid_resource")
    bearer = {"Authorization": f"Bearer {first['access_token']}"}
    (session,) = send(server, "GET", "/api/v1/access/me/sessions", None, bearer)[1]["value"]
    assert session["used_at"] == session["created_at"], "it was not turned"
    assert refresh(server, first["refresh_token"])[0] == 200


def test_what_a_sign_in_allowed_and_nobody_fetched_yet_ends_with_it(server: Any, somebody: str) -> None:
    """Else whoever had the session for a moment keeps a way in over a new password."""
    held = sign_in(server, somebody)
    bearer = {"Authorization": f"Bearer {held['access_token']}"}
    device = send(server, "POST", "/adfs/oauth2/devicecode", {"client_id": "t"})[1]
    allowed = {"user_code": device["user_code"], "answer": "allow"}
    assert send(server, "POST", "/ui/device", allowed, bearer)[0] == 200
    link = send(server, "POST", "/api/v1/portal/link", {}, {**bearer, "Content-Type": "application/json"})[1]
    cli(server.home, "access", "set-password", somebody, "--password-stdin", stdin="another long one\n")
    polled = token(server, grant_type="device_code", code=device["device_code"], client_id="t")
    assert (polled[0], polled[1]["error"]) == (400, "invalid_grant")
    assert "the password was changed" in polled[1]["error_description"]
    path = "/ui/" + link["url"].partition("/ui/")[2]
    status, _, headers = send(server, "GET", path)
    assert (status, "set-cookie" in headers) == (401, False)


def test_signing_out_ends_tokens_at_once(server: Any, somebody: str) -> None:
    here, there = sign_in(server, somebody), sign_in(server, somebody)
    bearer = {"Authorization": f"Bearer {here['access_token']}", "Content-Type": "application/json"}
    _, sessions, _ = send(server, "GET", "/api/v1/access/me/sessions", None, bearer)
    assert [one["current"] for one in sessions["value"]].count(True) == 1
    assert len(sessions["value"]) == 2
    assert send(server, "POST", "/api/v1/access/me/signOut", {}, bearer)[1] == {"ended": 1}
    status, answer = me(server, here["access_token"])
    assert (status, answer["error"]["code"]) == (401, "ExpiredAuthenticationToken")
    assert refresh(server, here["refresh_token"])[0] == 400
    assert me(server, there["access_token"])[0] == 200
    cli(server.home, "access", "sign-out", somebody)
    assert me(server, there["access_token"])[0] == 401


def test_revocation_by_the_refresh_token(server: Any, somebody: str) -> None:
    held = sign_in(server, somebody)
    assert send(server, "POST", "/adfs/oauth2/revoke", {"token": "nonsense"})[0] == 200
    assert me(server, held["access_token"])[0] == 200
    assert send(server, "POST", "/adfs/oauth2/revoke", {"token": held["refresh_token"]})[0] == 200
    assert me(server, held["access_token"])[0] == 401


def test_a_disabled_user_is_out_at_once_and_stays_signed_out(server: Any, somebody: str) -> None:
    held = sign_in(server, somebody)
    cli(server.home, "access", "disable", somebody)
    assert me(server, held["access_token"])[0] == 401
    assert refresh(server, held["refresh_token"])[0] == 400
    status, answer, _ = token(server, grant_type="password", username=somebody, password=PASSWORD)
    assert status == 400
    assert "disabled" in answer["error_description"]
    cli(server.home, "access", "enable", somebody)
    assert me(server, held["access_token"])[0] == 401
    assert sign_in(server, somebody)


def test_a_new_password_ends_other_sign_ins(server: Any, somebody: str) -> None:
    here, there = sign_in(server, somebody), sign_in(server, somebody)
    headers = {"Authorization": f"Bearer {here['access_token']}", "Content-Type": "application/json"}
    body = {"current": "wrong", "password": "another long one"}
    status, answer, _ = send(server, "PUT", "/api/v1/access/me/password", body, headers)
    assert (status, answer["error"]["code"]) == (401, "InvalidCredentials")
    body["current"] = PASSWORD
    assert send(server, "PUT", "/api/v1/access/me/password", body, headers)[0] == 200
    assert me(server, here["access_token"])[0] == 200
    assert me(server, there["access_token"])[0] == 401
    assert sign_in(server, somebody, "another long one")


def test_a_password_that_is_taken_away_ends_what_it_began(server: Any, somebody: str) -> None:
    held = sign_in(server, somebody)
    listed = json.loads(cli(server.home, "access", "list-credentials", somebody, "-o", "json").stdout)
    cli(server.home, "access", "delete-credential", somebody, listed[0]["id"])
    assert me(server, held["access_token"])[0] == 401
    status, answer = refresh(server, held["refresh_token"])
    assert (status, "the password was taken away" in answer["error_description"]) == (400, True)


def test_a_plain_user_may_not_set_passwords_of_others(server: Any, somebody: str, user: str) -> None:
    held = sign_in(server, somebody)
    headers = {"Authorization": f"Bearer {held['access_token']}", "Content-Type": "application/json"}
    for method, path, body in (
        ("PUT", "password", {"password": "a long new password"}),
        ("POST", "secrets", {}),
        ("GET", "credentials", None),
        ("POST", "signOut", {}),
    ):
        status, answer, _ = send(server, method, f"/api/v1/access/principals/{user}/{path}", body, headers)
        assert (status, answer["error"]["code"]) == (403, "AuthorizationFailed"), path


# --- programs


@pytest.fixture(scope="module")
def program(server: Any) -> dict[str, str]:
    made = cli(server.home, "access", "create-principal", "nightly", "-o", "json")
    cli(server.home, "access", "grant", "nightly", "Reader", "--scope", "subscription")
    return json.loads(made.stdout)


def by_secret(server: Any, client_id: str, secret: str) -> tuple[int, Any]:
    return token(
        server,
        grant_type="client_credentials",
        client_id=client_id,
        client_secret=secret,
        scope=RESOURCE + "/.default",
    )[:2]


def test_a_secret_is_shown_once_and_can_be_taken_away(server: Any, program: dict[str, str]) -> None:
    made = json.loads(cli(server.home, "access", "create-secret", "nightly", "-o", "json").stdout)
    assert made["client_id"] == program["app_id"]
    status, answer = by_secret(server, made["client_id"], made["secret"])
    assert status == 200
    assert me(server, answer["access_token"])[1]["name"] == "nightly"
    for client_id, secret in ((made["client_id"], made["secret"] + "x"), (str(uuid.uuid4()), made["secret"])):
        status, answer = by_secret(server, client_id, secret)
        assert (status, answer["error"]) == (401, "invalid_client")
    listed = cli(server.home, "access", "list-credentials", "nightly", "-o", "json").stdout
    assert made["id"] in listed
    assert made["secret"] not in listed
    cli(server.home, "access", "delete-credential", "nightly", made["id"])
    assert by_secret(server, made["client_id"], made["secret"])[0] == 401
    gone = cli(server.home, "access", "delete-credential", "nightly", made["id"], check=False)
    assert gone.returncode == 3


def test_secrets_are_for_programs_and_end(server: Any, user: str) -> None:
    refused = cli(server.home, "access", "create-secret", user, check=False)
    assert "only programs have secrets" in refused.stderr
    refused = cli(server.home, "access", "create-secret", "nightly", "--days", "1000", check=False)
    assert "1 to 730 days, not 1000" in refused.stderr


@pytest.fixture(scope="module")
def certificate(server: Any, program: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "nightly.pem"
    cli(server.home, "access", "create-certificate", "nightly", "--out", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def assertion(server: Any, client_id: str, pem: Path, **changes: Any) -> str:
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    now = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": server.state["addresses"]["https"] + "/adfs/oauth2/token",
        "exp": now + 300,
        "jti": uuid.uuid4().hex,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    text = pem.read_text()
    key = RSAKey.import_key(text[: text.index("-----BEGIN CERTIFICATE")])
    return jwt.encode({"alg": "RS256"}, claims, key)


def by_assertion(server: Any, client_id: str, text: str) -> tuple[int, Any]:
    return token(
        server,
        grant_type="client_credentials",
        client_id=client_id,
        client_assertion=text,
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        resource=RESOURCE,
    )[:2]


def test_a_certificate_signs_in_for_every_resource(
    server: Any, program: dict[str, str], certificate: Path
) -> None:
    text = assertion(server, program["app_id"], certificate)
    status, answer = by_assertion(server, program["app_id"], text)
    assert status == 200, answer
    assert me(server, answer["access_token"])[1]["name"] == "nightly"
    assert by_assertion(server, program["app_id"], text)[0] == 200  # as MSAL does


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aud": "https://login.microsoftonline.com/x/oauth2/token"}, "audience"),
        ({"exp": 1}, "expired"),
        ({"exp": int(time.time()) + 10**6}, "more than 3600 s"),
        ({"exp": None}, "no number of seconds"),
        ({"nbf": int(time.time()) + 10**5}, "not valid yet"),
        ({"iss": "somebody"}, "iss is 'somebody'"),
        ({"sub": "somebody"}, "sub is 'somebody'"),
    ],
)
def test_assertions_that_do_not_hold(
    server: Any, program: dict[str, str], certificate: Path, changes: dict[str, Any], said: str
) -> None:
    text = assertion(server, program["app_id"], certificate, **changes)
    status, answer = by_assertion(server, program["app_id"], text)
    assert (status, answer["error"]) == (401, "invalid_client")
    assert said in answer["error_description"]


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def symmetric(claims: dict[str, Any], public: bytes) -> str:
    """Signed with HMAC and what everybody knows, as a confused verifier would take it."""
    signed = f"{b64({'alg': 'HS256'})}.{b64(claims)}"
    mac = hmac.digest(public, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_unsigned_foreign_and_symmetric_assertions(
    server: Any, program: dict[str, str], certificate: Path, tmp_path: Path
) -> None:
    real = assertion(server, program["app_id"], certificate)
    header, body, signature = real.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    public = certificate.read_text()
    public = public[public.index("-----BEGIN CERTIFICATE") :]
    other = tmp_path / "other.pem"
    cli(server.home, "access", "create-principal", f"p-{uuid.uuid4().hex[:8]}", "-o", "json")
    from tidemill.cli.commands.credentials import _make_pair

    _make_pair(other, "other", 1)
    for text in (
        f"{b64({'alg': 'none'})}.{body}.",
        f"{header}.{body}.{signature[:-4]}AAAA",
        f"{header}.{b64({**claims, 'jti': 'x'})}.{signature}",
        symmetric({**claims, "jti": "y"}, public.encode()),
        assertion(server, program["app_id"], other),
        "not.a.jwt",
        "",
    ):
        status, answer = by_assertion(server, program["app_id"], text)
        assert (status, answer["error"]) == (401, "invalid_client"), text[:60]
    assert by_assertion(server, program["app_id"], real)[0] == 200


# --- tokens


def test_forged_and_foreign_tokens_are_401(server: Any, user: str) -> None:
    real = sign_in(server, user)["access_token"]
    header, body, signature = real.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    kid = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"]
    owner = json.loads((server.home / "config.json").read_bytes())["owner_oid"]
    cases = {
        "alg none": f"{b64({'alg': 'none', 'kid': kid})}.{body}.",
        "alg none, signature kept": f"{b64({'alg': 'none', 'kid': kid})}.{body}.{signature}",
        "wrong kid": f"{b64({'alg': 'ES256', 'kid': 'x', 'typ': 'JWT'})}.{body}.{signature}",
        "another subject": f"{header}.{b64({**claims, 'oid': owner, 'sub': owner})}.{signature}",
        "another session": f"{header}.{b64({**claims, 'sid': ''})}.{signature}",
        "later end": f"{header}.{b64({**claims, 'exp': claims['exp'] + 10**6})}.{signature}",
        "cut": real[:-6],
        "three dots": real + ".x",
        "empty": "",
    }
    for what, text in cases.items():
        status, answer = me(server, text)
        assert status == 401, what
        assert answer["error"]["code"] in ("InvalidAuthenticationToken", "AuthenticationFailed"), what
    assert me(server, real)[0] == 200


def test_an_id_token_and_a_foreign_audience_open_nothing(server: Any, user: str) -> None:
    form = {"grant_type": "password", "username": user, "password": PASSWORD, "client_id": "test"}
    status, answer, _ = token(server, **form, scope=RESOURCE + "/.default openid")
    assert status == 200
    status, refused = me(server, answer["id_token"])
    assert (status, refused["error"]["code"]) == (401, "InvalidAuthenticationTokenTenant")
    status, answer, _ = token(server, **form, resource="https://graph.microsoft.com")
    assert (status, answer["error"]) == (400, "invalid_resource")


def test_unknown_grants_name_those_there_are(server: Any) -> None:
    status, answer, _ = token(server, grant_type="implicit")
    assert (status, answer["error"]) == (400, "unsupported_grant_type")
    assert "authorization_code" in answer["error_description"]
