"""People sign in with a real OpenID Connect provider; programs are let in by them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from oidc_server import SECRET, Browser, Page, Unavailable, running

TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
PASSWORD = "correct horse battery"


def cli(server: Any, *words: str, stdin: str = "", fails: bool = False) -> str:
    argv = [TIDEMILL, "--home", str(server.home), *words]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def portal(server: Any) -> str:
    return str(server.state["addresses"]["http"])


@pytest.fixture(scope="module")
def issuer(server: Any) -> Iterator[str]:
    try:
        with running([portal(server) + "/ui/oidc/callback"]) as issuer:
            cli(server, "access", "create-group", "vision")
            cli(server, "access", "grant", "vision", "Reader", "--scope", "subscription")
            words = ("--issuer", issuer, "--client-id", "tidemill", "--domain", "example.org")
            groups = ("--group", "ml-team=vision", "--scope", "groups", "--label", "Corp login")
            cli(server, "access", "add-provider", "corp", *words, *groups, "--secret-stdin", stdin=SECRET)
            yield issuer
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def to_provider(server: Any, browser: Browser, after: str = "/ui") -> Page:
    """As far as the provider's login form."""
    page = browser.get(f"{portal(server)}/ui/sign-in?next={quote(after)}")
    assert "Sign in with Corp login" in page.text
    return browser.get(f"{portal(server)}/ui/oidc/corp/start?next={quote(after)}")


def sign_in(server: Any, browser: Browser, login: str, after: str = "/ui", follow: bool = True) -> Page:
    page = to_provider(server, browser, after)
    page = browser.submit(page, login=login, password="anything")
    return browser.submit(page, follow=follow)  # the consent


def whoami(server: Any, browser: Browser) -> dict[str, Any]:
    return json.loads(browser.get(f"{portal(server)}/api/v1/access/me").text)


def test_a_person_signs_in_becomes_a_user_and_joins_the_groups(server: Any, issuer: str) -> None:
    browser = Browser()
    page = sign_in(server, browser, "ann")
    assert page.status == 200, page.text
    assert urlsplit(page.url).path.endswith("/jobs")  # the first page, by the group's role
    me = whoami(server, browser)
    assert (me["name"], me["display_name"], me["kind"]) == ("ann@example.org", "Ann Lee", "User")
    found = json.loads(cli(server, "access", "list", "--principals", "-o", "json"))
    assert next(one for one in found if one["name"] == "ann@example.org")["created_by"] == "provider corp"
    sessions = json.loads(browser.get(f"{portal(server)}/api/v1/access/me/sessions").text)["value"]
    assert [(one["how"], one["client"], one["current"]) for one in sessions] == [
        ("oidc:corp", "portal", True)
    ]
    again = Browser()
    sign_in(server, again, "ann")
    assert whoami(server, again)["oid"] == me["oid"]


def test_the_answer_of_the_provider_is_good_once_and_for_one_browser(server: Any, issuer: str) -> None:
    mine = Browser()
    page = to_provider(server, mine)
    page = mine.submit(page, login="ann", password="x")
    # The consent leads back to us: that step is taken apart here.
    page = mine.submit(page, follow=False)
    while "/ui/oidc/callback" not in page.headers.get("location", ""):
        page = mine.get(page.headers["location"], follow=False)
    callback = page.headers["location"]
    stranger = Browser()
    refused = stranger.get(callback)
    assert refused.status == 401
    assert "not asked for by this browser" in refused.text
    # A stranger's attempt used the state up: login CSRF cannot be tried until it works.
    assert mine.get(callback).status == 401
    browser = Browser()
    assert sign_in(server, browser, "ann").status == 200
    done = next(url for url in browser.seen if "/ui/oidc/callback" in url)
    assert browser.get(done).status == 401
    state = parse_qs(urlsplit(done).query)["state"][0]
    for changed in (done.replace(state, state[::-1]), f"{portal(server)}/ui/oidc/callback?code=x"):
        assert browser.get(changed).status == 401


@pytest.mark.parametrize("login", ["bob", "eve", "nobody"])
def test_people_whom_no_rule_lets_in(server: Any, issuer: str, login: str) -> None:
    browser = Browser()
    page = sign_in(server, browser, login)
    assert page.status in (401, 403)
    if login != "nobody":
        assert "only people with a verified e-mail address of example.org" in page.text
    assert whoami(server, browser).get("error", {}).get("code") == "AuthenticationFailed"
    listed = cli(server, "access", "list", "--principals", "-o", "json")
    assert "bob@example.org" not in listed
    assert "eve@elsewhere.test" not in listed


def test_a_name_that_is_taken_is_not_taken_over(server: Any, issuer: str) -> None:
    cli(server, "access", "create-user", "kim@example.org")
    cli(
        server,
        *("access", "set-password", "kim@example.org", "--password-stdin"),
        stdin=PASSWORD + "\n",
    )
    page = sign_in(server, Browser(), "kim")
    assert page.status == 409
    assert "nothing shows that it is you" in page.text
    held = json.loads(cli(server, "access", "list-credentials", "kim@example.org", "-o", "json"))
    cli(server, "access", "delete-credential", "kim@example.org", held[0]["id"])
    # Made beforehand, with no other way in: the verified address is enough.
    browser = Browser()
    assert sign_in(server, browser, "kim").status in (200, 403)  # 403: no role for the first page yet
    assert whoami(server, browser)["name"] == "kim@example.org"


def test_a_disabled_person_and_a_session_that_ends(server: Any, issuer: str) -> None:
    browser = Browser()
    sign_in(server, browser, "ann")
    page = browser.get(portal(server) + "/ui")
    browser.submit(page)  # the first form of every page: sign out
    assert browser.get(portal(server) + "/ui").status == 401
    browser = Browser()
    sign_in(server, browser, "ann")
    cli(server, "access", "disable", "ann@example.org")
    assert browser.get(portal(server) + "/ui").status == 401
    page = sign_in(server, Browser(), "ann")
    assert page.status == 401
    assert "is disabled" in page.text
    cli(server, "access", "enable", "ann@example.org")
    assert sign_in(server, Browser(), "ann").status == 200


def test_providers_are_checked_when_they_are_added(server: Any, issuer: str) -> None:
    base = ("access", "add-provider", "other", "--client-id", "x", "--domain", "example.org")
    for wrong, said in (
        ("http://login.example.org", "must be an https address"),
        (issuer + "/", "is of the issuer"),
        ("http://127.0.0.1:9", "could not be read"),
    ):
        assert said in cli(server, *base, "--issuer", wrong, fails=True)
    no_rule = ("access", "add-provider", "other", "--client-id", "x", "--issuer", issuer)
    assert "Nobody could sign in" in cli(server, *no_rule, fails=True)
    assert "absent" in cli(server, *no_rule, "--group", "a=absent", fails=True)
    stored = b"".join(path.read_bytes() for path in (server.home / "db").iterdir())
    assert SECRET.encode() not in stored
    assert SECRET not in cli(server, "access", "list-providers", "-o", "json")


# --- the page with a password


def person(server: Any) -> str:
    name = f"user-{uuid.uuid4().hex[:8]}"
    cli(server, "access", "create-user", name)
    cli(server, "access", "grant", name, "Reader", "--scope", "subscription")
    cli(server, "access", "set-password", name, "--password-stdin", stdin=PASSWORD + "\n")
    return name


def by_password(server: Any, name: str, after: str = "/ui") -> tuple[Browser, Page]:
    browser = Browser()
    page = browser.get(portal(server) + after)
    assert page.status == 401  # the page that was asked for asks who it is
    return browser, browser.submit(page, name=name, password=PASSWORD)


def test_a_password_leads_to_the_page_that_was_asked_for(server: Any) -> None:
    name = person(server)
    browser, page = by_password(server, name, "/ui/device?user_code=x")
    assert urlsplit(page.url).path == "/ui/device"
    assert "No program waits with the code" in page.text
    assert name in page.text
    assert whoami(server, browser)["name"] == name


def test_wrong_passwords_foreign_forms_and_open_redirects(server: Any) -> None:
    name = person(server)
    browser = Browser()
    page = browser.get(portal(server) + "/ui/sign-in")
    wrong = browser.submit(page, name=name, password="wrong")
    assert wrong.status == 401
    assert "The user name or the password is wrong." in wrong.text
    assert f'value="{name}"' in wrong.text
    foreign = Page(
        "http://evil.example/x", 200, page.text.replace('action="', f'action="{portal(server)}'), {}
    )
    refused = browser.submit(foreign, name=name, password=PASSWORD)
    assert refused.status == 403
    assert "not from this server" in refused.text
    assert browser.get(f"{portal(server)}/ui/sign-in?next=//evil.example").status == 400
    away = Page(page.url, 200, page.text.replace('name="next" value="/ui"', 'name="next" value="//evil"'), {})
    assert browser.submit(away, name=name, password=PASSWORD).status == 400
    assert not browser.cookies.get(urlsplit(portal(server)).netloc)


# --- programs that a person lets in


def form_post(server: Any, path: str, **form: str) -> tuple[int, Any]:
    import http.client

    host, port = portal(server).removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", path, urlencode(form), headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


VERIFIER = "v" * 50
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASKED = {
    "client_id": "a-program",
    "response_type": "code",
    "redirect_uri": "http://127.0.0.1:7777/done",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "state": "s1",
}


def authorized(server: Any, browser: Browser, answer: str = "allow") -> dict[str, str]:
    page = browser.get(f"{portal(server)}/ui/authorize?{urlencode(ASKED)}")
    assert "The program &#39;a-program&#39; on this machine" in page.text
    assert "form-action 'self' http://127.0.0.1:7777" in page.headers["content-security-policy"]
    done = browser.submit(page, follow=False, answer=answer)
    assert done.headers["location"].startswith("http://127.0.0.1:7777/done?")
    return {name: values[0] for name, values in parse_qs(urlsplit(done.headers["location"]).query).items()}


def exchange(server: Any, code: str, **changes: str) -> tuple[int, Any]:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "client_id": "a-program",
        "redirect_uri": ASKED["redirect_uri"],
        "code_verifier": VERIFIER,
        **changes,
    }
    return form_post(server, "/adfs/oauth2/token", **form)


def bearer_status(server: Any, token: str) -> int:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        portal(server) + "/api/v1/access/me", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_code_is_good_once_and_used_twice_takes_everything_back(server: Any) -> None:
    browser, _ = by_password(server, person(server))
    answer = authorized(server, browser)
    assert answer["state"] == "s1"
    status, tokens = exchange(server, answer["code"])
    assert status == 200
    assert bearer_status(server, tokens["access_token"]) == 200
    status, refused = exchange(server, answer["code"])
    assert (status, refused["error"]) == (400, "invalid_grant")
    assert "used before" in refused["error_description"]
    assert bearer_status(server, tokens["access_token"]) == 401
    assert authorized(server, browser, "deny")["error"] == "access_denied"


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 50},
        {"redirect_uri": "http://127.0.0.1:7778/done"},
        {"client_id": "another"},
        {"code": "made-up"},
    ],
)
def test_a_stolen_code_is_worth_nothing(server: Any, changes: dict[str, str]) -> None:
    browser, _ = by_password(server, person(server))
    code = authorized(server, browser)["code"]
    status, refused = exchange(server, **{"code": code, **changes})
    assert (status, refused["error"]) == (400, "invalid_grant")
    if "code" not in changes:
        assert exchange(server, code)[0] == 400  # one guess


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"redirect_uri": "https://evil.example/x"}, "is not http on this machine"),
        ({"redirect_uri": "http://127.0.0.1@evil.example/"}, "is not http on this machine"),
        ({"redirect_uri": "http://localhost.evil.example/"}, "is not http on this machine"),
        ({"code_challenge": ""}, "PKCE"),
        ({"code_challenge_method": "plain"}, "PKCE"),
        ({"response_type": "token"}, "response_type must be code"),
    ],
)
def test_requests_that_nobody_is_asked_about(server: Any, changes: dict[str, str], said: str) -> None:
    browser, _ = by_password(server, person(server))
    page = browser.get(f"{portal(server)}/ui/authorize?{urlencode({**ASKED, **changes})}")
    assert page.status == 400
    assert said in page.text


def test_a_device_waits_until_a_person_types_its_code(server: Any) -> None:
    browser, _ = by_password(server, person(server))
    status, device = form_post(server, "/adfs/oauth2/devicecode", client_id="laptop")
    assert status == 200

    def poll(**changes: str) -> tuple[int, Any]:
        form = {"device_code": device["device_code"], "client_id": "laptop", **changes}
        return form_post(
            server, "/adfs/oauth2/token", grant_type="urn:ietf:params:oauth:grant-type:device_code", **form
        )

    assert poll()[1]["error"] == "authorization_pending"
    assert poll()[1]["error"] == "slow_down"
    assert poll(client_id="another")[1]["error"] == "expired_token"
    page = browser.get(portal(server) + "/ui/device")
    page = browser.submit(page, user_code=device["user_code"].lower().replace("-", " "))
    assert device["user_code"] in page.text
    assert "(laptop) at the address 127.0.0.1" in page.text
    assert "It is signed in" in browser.submit(page, answer="allow").text
    status, tokens = poll()
    assert status == 200
    assert bearer_status(server, tokens["access_token"]) == 200
    assert poll()[1]["error"] == "expired_token"  # once
    _, device = form_post(server, "/adfs/oauth2/devicecode", client_id="laptop")
    page = browser.get(f"{portal(server)}/ui/device?user_code={device['user_code']}")
    assert "It was refused" in browser.submit(page, answer="deny").text
    assert poll(device_code=device["device_code"])[1]["error"] == "access_denied"


def login_with_a_browser_of_this_machine(home: Path, browser: Browser) -> None:
    """While connected: the answer comes back to a port of the command."""
    argv = [TIDEMILL, "--home", str(home), "login", "--browser"]
    quiet = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    for answer, code in (("deny", 4), ("allow", 0)):
        waiting = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=quiet)
        assert waiting.stderr is not None
        try:
            address = next(line.strip() for line in waiting.stderr if "/ui/authorize?" in line)
            target = parse_qs(urlsplit(address).query)["redirect_uri"][0]
            assert browser.get(f"{target}?code=stolen&state=guessed").status == 400
            done = browser.submit(browser.get(address), answer=answer)
            assert "You can close this window" in done.text
            said = waiting.communicate(timeout=30)[1]
            assert waiting.returncode == code, said
        finally:
            waiting.kill()


def test_connect_with_a_browser(server: Any, tmp_path: Path) -> None:
    """`tidemill connect` waits; a browser of this machine opens the address that it prints."""
    browser, _ = by_password(server, person(server))
    port = server.state["addresses"]["https"].rsplit(":", 1)[1]
    argv = [TIDEMILL, "--home", str(tmp_path / "c"), "connect", f"localhost:{port}", "--detach"]
    fingerprint = server.state["fingerprint"]
    waiting = subprocess.Popen(
        [*argv, "--fingerprint", fingerprint], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert waiting.stderr is not None
    try:
        address = next(line.strip() for line in waiting.stderr if "/ui/device?user_code=" in line)
        page = browser.get(address)
        assert "tidemill-cli" in page.text
        browser.submit(page, answer="allow")
        out, problem = waiting.communicate(timeout=30)
        assert waiting.returncode == 0, problem
        assert "nothing is relayed" in out
        login_with_a_browser_of_this_machine(tmp_path / "c", browser)
    finally:
        waiting.kill()
        subprocess.run([TIDEMILL, "--home", str(tmp_path / "c"), "down"], capture_output=True, timeout=30)
