"""People of a provider in the use cases: who becomes whom, and secrets that outlive a rotation of keys."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.app.people import principals, providers
from tidemill.app.upkeep import keys
from tidemill.app.views import access_views
from tidemill.domain.errors import Conflict, Forbidden, NotFound, Unauthenticated
from tidemill.domain.oidc import Provider
from tidemill.domain.principals import PrincipalKind
from tidemill.identity import keys as key_files
from tidemill.identity.oidc import OidcClient

ISSUER = "https://login.example.org"
PROVIDER = Provider("corp", ISSUER, "tm", "s3cret", domains=("example.org",), groups={"ml": "vision"})
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": ISSUER + "/a",
    "token_endpoint": ISSUER + "/t",
    "jwks_uri": ISSUER + "/k",
}


class Provided(OidcClient):
    """Gives these claims for any code; what it checks has tests of its own."""

    def __init__(self) -> None:
        super().__init__(lambda url, form, headers: METADATA)
        self.said: dict[str, Any] = {}

    def claims(self, *_: Any) -> dict[str, Any]:
        return self.said


@pytest.fixture
async def corp(services, owner):
    from dataclasses import replace

    ready = replace(services, oidc=Provided())
    await principals.create(ready, owner, PrincipalKind.GROUP, "vision")
    await providers.put(ready, PROVIDER)
    return ready


async def come(services, sub: str, email: str, groups: tuple[str, ...] = (), verified: bool = True):
    url, browser = await providers.begin(services, "corp", "https://here/cb", "/ui")
    state = url.partition("state=")[2].partition("&")[0]
    services.oidc.said = {"sub": sub, "email": email, "email_verified": verified, "groups": list(groups)}
    who, after, name = await providers.finish(services, {"code": "c", "state": state}, browser)
    assert (after, name) == ("/ui", "corp")
    return who


async def members(services) -> list[str]:
    return (await access_views.person(services, "vision"))["members"]


async def test_the_subject_is_the_person_whatever_they_are_called(corp):
    ann = await come(corp, "sub-1", "ann@example.org")
    assert (await come(corp, "sub-1", "ann.lee@example.org")).oid == ann.oid
    # Somebody else who got her old address is not her.
    with pytest.raises(Conflict, match="nothing shows that it is you"):
        await come(corp, "sub-2", "ann@example.org")


async def test_groups_are_joined_and_left_as_the_provider_says(corp):
    await come(corp, "sub-1", "ann@example.org", ("ml", "other"))
    assert await members(corp) == ["ann@example.org"]
    await come(corp, "sub-1", "ann@example.org", ())
    assert await members(corp) == []


async def test_who_was_in_before_stays_in_and_newcomers_need_a_rule(corp):
    await come(corp, "sub-1", "ann@example.org")
    assert (await come(corp, "sub-1", "ann@gone.test", verified=False)).name == "ann@example.org"
    for email, verified in (("bob@example.org", False), ("bob@evil.test", True)):
        with pytest.raises(Forbidden, match="lets in only people"):
            await come(corp, "sub-9", email, verified=verified)


async def test_a_prepared_user_is_taken_only_by_the_verified_address(corp, owner):
    made = await principals.create(corp, owner, PrincipalKind.USER, "kim@example.org")
    with pytest.raises(Conflict):
        await come(corp, "sub-1", "kim@example.org", ("ml",), verified=False)
    assert (await come(corp, "sub-1", "kim@example.org")).oid == made.oid
    await principals.create(corp, owner, PrincipalKind.SERVICE_PRINCIPAL, "bot@example.org")
    with pytest.raises(Conflict):
        await come(corp, "sub-2", "bot@example.org")


async def test_a_deleted_person_comes_back_as_somebody_new(corp):
    first = await come(corp, "sub-1", "ann@example.org")
    await principals.delete(corp, first.oid)
    assert (await come(corp, "sub-1", "ann@example.org")).oid != first.oid


async def test_answers_that_were_not_asked_for(corp):
    url, browser = await providers.begin(corp, "corp", "https://here/cb", "/ui")
    state = url.partition("state=")[2].partition("&")[0]
    for query, cookie in (
        ({"state": "made-up", "code": "c"}, browser),
        ({"code": "c"}, browser),
        ({"state": state, "code": "c"}, "another browser"),
        ({"state": state, "code": "c"}, browser),  # the try before has used it up
    ):
        with pytest.raises(Unauthenticated, match="not asked for"):
            await providers.finish(corp, query, cookie)
    url, browser = await providers.begin(corp, "corp", "https://here/cb", "/ui")
    state = url.partition("state=")[2].partition("&")[0]
    with pytest.raises(Unauthenticated, match="another provider"):
        await providers.finish(corp, {"state": state, "code": "c", "iss": "https://mixed.up"}, browser)


async def test_secrets_of_providers_are_sealed_anew(corp):
    directory = corp.settings.home / "secrets"
    corp.secrets.take(key_files.load_or_create(directory).master)
    await providers.put(corp, PROVIDER)
    before = (await providers.all_of_them(corp))[0].client_secret
    assert b"s3cret".hex() not in before
    keys.rotate_master(corp)
    await keys.Resealer(corp).reseal()
    assert len(corp.secrets.key_ids) == 1
    assert (await providers.all_of_them(corp))[0].client_secret != before
    assert (await providers.get(corp, "corp")).client_secret == "s3cret"
    await providers.remove(corp, "corp")
    with pytest.raises(NotFound):
        await providers.get(corp, "corp")
