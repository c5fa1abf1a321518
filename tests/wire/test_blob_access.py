"""Who may do what at the blob service: keys, signatures, tokens, roles that go. What Azurite does, too, is
tried against it as well."""

# ruff: noqa: F811 - fixtures are imported, and named again where they are used

from __future__ import annotations

import asyncio
import base64
import http.client
import ssl
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    generate_account_sas,
    generate_container_sas,
)
from blob_backends import (
    ACCOUNT,
    OTHER,
    SCOPE,
    Backend,
    add_jobs,
    change_home,
    now,
)
from blob_client import (  # noqa: F401
    SIGNED_NAME,
    backend,
    blob_sas,
    blob_with,
    client_of,
    code,
    container,
    hours,
    names,
    ours,
    refused,
    service,
)

from tidemill.domain.model import Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import Permission, RoleAssignment, RoleDefinition
from tidemill.domain.signin import Session
from tidemill.identity.storage_keys import StorageKeys
from tidemill.identity.tokens import TokenIssuer
from tidemill.store.api import Tx

pytestmark = pytest.mark.timeout(600)  # the first to need Azurite installs it


def home_issuer(home: Path) -> TokenIssuer:
    """What the home's control process issues tokens with."""
    from tidemill.app.services import Addresses
    from tidemill.identity.keys import load_or_create
    from tidemill.server.compose import issuer
    from tidemill.server.home import Home, load_config

    place = Home(home)
    addresses = Addresses("https://localhost:1", "http://127.0.0.1:1", "https://localhost:1")
    return issuer(place, load_config(place), load_or_create(place.secrets), addresses)


class Person:
    """Somebody with one custom role at SCOPE, made and changed behind the data process's back."""

    def __init__(
        self, home: Path, name: str, actions: tuple[str, ...] = (), data: tuple[str, ...] = ()
    ) -> None:
        self._home = home
        self.principal = Principal(str(uuid.uuid4()), PrincipalKind.USER, name)
        self._role = RoleDefinition(
            f"role-{name}", f"role of {name}", (Permission(actions, (), data),), "", ("/subscriptions/s",)
        )
        self._given = f"assignment-{name}"

    @property
    def holder(self) -> str:
        return f"{self.principal.oid}.{self._given}"

    def __enter__(self) -> Person:
        self._change(lambda tx: [tx.insert_principal(self.principal), tx.insert_role_definition(self._role)])
        self.grant(self._given)
        return self

    def grant(self, id: str) -> None:
        given = RoleAssignment(id, SCOPE.arm_id, self.principal.oid, self._role.id)
        self._change(lambda tx: tx.insert_role_assignment(given))

    def revoke(self) -> None:
        self._change(lambda tx: tx.delete_role_assignment(self._given))

    def disable(self, disabled: bool) -> None:
        oid = self.principal.oid
        self._change(lambda tx: tx.update_principal(replace(tx.principal(oid), disabled=disabled)))

    def sign_in(self, id: str) -> None:
        end = now() + 600_000_000
        session = Session(id, self.principal.oid, "portal", "password", "", b"", 1, now(), now(), end)
        self._change(lambda tx: tx.insert_session(session))

    def sign_out(self) -> None:
        self._change(lambda tx: tx.end_sessions(self.principal.oid, now(), "signed out"))

    def __exit__(self, *error: object) -> None:
        self._change(lambda tx: tx.delete_principal(tx.principal(self.principal.oid)))

    def _change(self, change: Callable[[Tx], object]) -> None:
        asyncio.run(change_home(self._home, change))


def ask(backend: Backend, path: str, token: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(
        "localhost", backend.port, timeout=60, context=ssl.create_default_context(cafile=backend.ca)
    )
    connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


class TestAccess:
    def test_blob_sas(self, backend: Backend, container: ContainerClient) -> None:
        container.upload_blob("ü/b c", b"secret")
        container.upload_blob("other", b"other")
        sas = blob_sas(backend, container.container_name, "ü/b c")
        one = blob_with(backend, container.container_name, "ü/b c", sas)
        assert one.download_blob().readall() == b"secret"
        with pytest.raises(HttpResponseError) as error:
            one.delete_blob()
        assert (error.value.status_code, code(error)) == (403, "AuthorizationPermissionMismatch")
        with pytest.raises(HttpResponseError) as foreign:
            blob_with(backend, container.container_name, "other", sas).download_blob()
        assert refused(backend, foreign)

    def test_container_sas(self, backend: Backend, container: ContainerClient) -> None:
        sas = generate_container_sas(
            SIGNED_NAME,
            container.container_name,
            backend.key,
            permission=ContainerSasPermissions(read=True, list=True, create=True),
            expiry=hours(1),
            start=hours(-1),
        )
        inside = client_of(backend, credential=sas).get_container_client(container.container_name)
        inside.upload_blob("new", b"x")
        assert names(inside) == ["new"]
        with pytest.raises(HttpResponseError) as error:
            inside.upload_blob("new", b"y", overwrite=True)
        assert error.value.status_code == 403
        with pytest.raises(HttpResponseError):
            inside.delete_container()
        other = client_of(backend).create_container(f"o-{uuid.uuid4().hex[:12]}")
        with pytest.raises(HttpResponseError) as foreign:
            names(client_of(backend, credential=sas).get_container_client(other.container_name))
        assert refused(backend, foreign)
        assert container.get_blob_client("new").download_blob().readall() == b"x"

    def test_account_sas(
        self, backend: Backend, service: BlobServiceClient, container: ContainerClient
    ) -> None:
        sas = generate_account_sas(
            SIGNED_NAME, backend.key, resource_types="sco", permission="rl", expiry=hours(1)
        )
        reader = client_of(backend, credential=sas)
        assert container.container_name in [item.name for item in reader.list_containers()]
        with pytest.raises(HttpResponseError) as error:
            reader.create_container("never-made")
        assert error.value.status_code == 403

    @pytest.mark.parametrize("change", ["expired", "early", "altered", "wrong key", "wider", "another name"])
    def test_bad_sas(self, backend: Backend, container: ContainerClient, change: str) -> None:
        container.upload_blob("b", b"x")
        place = (backend, container.container_name, "b")
        wrong = base64.b64encode(b"k" * 64).decode()
        match change:
            case "expired":
                sas = blob_sas(*place, expiry=hours(-0.01))
            case "early":
                sas = blob_sas(*place, start=hours(0.5))
            case "altered":
                sas = blob_sas(*place).replace("sig=", "sig=A")
            case "wrong key":
                sas = blob_sas(*place, account_key=wrong)
            case "wider":
                sas = blob_sas(*place).replace("sp=r", "sp=rwd")
            case _:
                sas = blob_sas(*place, account_name="somebody")
        with pytest.raises(HttpResponseError) as error:
            blob_with(*place, sas).download_blob()
        assert refused(backend, error)

    def test_wrong_key(self, backend: Backend, container: ContainerClient) -> None:
        stranger = client_of(backend, credential=base64.b64encode(b"k" * 64).decode())
        with pytest.raises(HttpResponseError) as error:
            names(stranger.get_container_client(container.container_name))
        assert refused(backend, error)
        with pytest.raises(HttpResponseError) as upload:
            stranger.get_container_client(container.container_name).upload_blob("x", b"x" * 100_000)
        assert refused(backend, upload)

    @pytest.mark.parametrize("alias", ["localhost:{port}/{account}", "{account}"])
    def test_sas_signed_for_an_alias(self, ours: Backend, container: ContainerClient, alias: str) -> None:
        container.upload_blob("logs/user_logs/std_log.txt", b"line\n")
        signed = alias.format(port=ours.port, account=ACCOUNT)
        place = (ours, container.container_name, "logs/user_logs/std_log.txt")
        one = blob_with(*place, blob_sas(*place, account_name=signed))
        assert one.download_blob().readall() == b"line\n"

    def test_one_account_never_opens_another(self, ours: Backend, container: ContainerClient) -> None:
        other = ours.url.replace(ACCOUNT, OTHER)
        with pytest.raises(ClientAuthenticationError) as error:
            list(client_of(ours, url=other).list_containers())
        assert error.value.status_code == 403
        container.upload_blob("b", b"x")
        sas = blob_sas(ours, container.container_name, "b")
        with pytest.raises(ClientAuthenticationError):
            client_of(ours, credential=sas, url=other).get_blob_client(
                container.container_name, "b"
            ).download_blob()

    def test_an_account_that_nobody_owns(self, ours: Backend) -> None:
        with pytest.raises(ResourceNotFoundError):
            list(client_of(ours, url=ours.url.replace(ACCOUNT, "nobody")).list_containers())

    def test_tokens(self, ours: Backend, container: ContainerClient) -> None:
        """Of the owner, of a job of the workspace that owns the account, of another workspace, of nobody."""
        home = Path(ours.ca).parents[1]
        container.upload_blob("b", b"x")
        path = f"/{ACCOUNT}.blob.core.windows.net/{container.container_name}/b"
        tokens = home_issuer(home)
        storage = "https://storage.azure.com"

        def job(scope: Scope, uid: str = "live") -> str:
            return tokens.issue_job(uid=uid, name="job", scope=scope, audience=storage, ttl_s=60)

        add_jobs(home, {"live": "Running", "ended": "Completed"})

        somebody = Principal("11111111-0000-0000-0000-000000000000", PrincipalKind.USER, "bob")
        assert ask(ours, path, tokens.issue_owner(storage)) == (200, b"x")
        assert ask(ours, path, job(Scope("S", "G", "main"))) == (200, b"x")
        with Person(home, "reader", data=("*/read",)) as reader:
            mine = tokens.issue_to(reader.principal, storage)
            assert ask(ours, path, mine) == (200, b"x")
            assert ask(ours, f"{path}?comp=tags", mine)[0] >= 400
            assert ask(ours, f"/{ACCOUNT}.blob.core.windows.net/?comp=list", mine)[0] == 403
            assert ask(ours, path, mine, "DELETE")[0] == 403
            signed_in = tokens.issue_to(reader.principal, storage, session="s-1")
            assert ask(ours, path, signed_in)[0] == 401  # no such sign-in
            reader.sign_in("s-1")
            assert ask(ours, path, signed_in) == (200, b"x")
            reader.sign_out()
            assert ask(ours, path, signed_in)[0] == 401
            reader.revoke()
            assert ask(ours, path, mine)[0] == 403
        assert ask(ours, path, mine)[0] == 401
        for token, status in (
            (job(Scope("s", "g", "other")), 403),
            (job(Scope("s", "g", "main"), "ended"), 401),
            (job(Scope("s", "g", "main"), "never"), 401),
            (tokens.issue_to(somebody, storage), 401),
            (tokens.issue_owner(storage) + "x", 401),
            (tokens.issue_owner(storage, ttl_s=-5), 401),
            ("nonsense", 401),
        ):
            assert ask(ours, path, token)[0] == status

    def test_losing_the_role_closes_the_door(self, ours: Backend, container: ContainerClient) -> None:
        """Keys, what was signed with them, what the server signed: dead with the assignment."""
        from tidemill.wire.blob.sas import make_sas

        home = Path(ours.ca).parents[1]
        keys = StorageKeys((home / "secrets" / "storage.key").read_bytes())
        container.upload_blob("b", b"x")
        place = (SIGNED_NAME, container.container_name, "b")
        with Person(home, "ann", actions=("*/listSecrets/action",)) as ann:
            key = keys.key(ACCOUNT, ann.holder)
            by_key = client_of(ours, credential=key).get_blob_client(container.container_name, "b")
            sas = blob_sas(ours, *place[1:], account_key=key)
            by_sas = blob_with(ours, container.container_name, "b", sas)
            signer = f"sas:{ann.holder}"
            signed = make_sas(
                keys.key(ACCOUNT, signer), ACCOUNT, place[1], None, "r", now() + 600_000_000, holder=signer
            )
            by_server = blob_with(ours, container.container_name, "b", signed)
            clients = (by_key, by_sas, by_server)
            assert [one.download_blob().readall() for one in clients] == [b"x"] * 3
            # A key in somebody's hands signs nothing in the server's name.
            forged = make_sas(key, ACCOUNT, place[1], None, "r", now() + 600_000_000, holder=signer)
            with pytest.raises(ClientAuthenticationError):
                blob_with(ours, container.container_name, "b", forged).download_blob()
            ann.disable(True)
            for one in clients:
                with pytest.raises(ClientAuthenticationError):
                    one.download_blob()
            ann.disable(False)
            assert by_key.download_blob().readall() == b"x"
            ann.revoke()
            for one in clients:
                with pytest.raises(ClientAuthenticationError):
                    one.download_blob()
            ann.grant("another-assignment")
            with pytest.raises(ClientAuthenticationError):
                by_key.download_blob()
        container.get_blob_client("b").download_blob()  # the owner's own key

    def test_what_was_signed_for_a_job_ends_with_it(self, ours: Backend, container: ContainerClient) -> None:
        from tidemill.wire.blob.sas import make_sas

        home = Path(ours.ca).parents[1]
        keys = StorageKeys((home / "secrets" / "storage.key").read_bytes())
        container.upload_blob("b", b"x")
        add_jobs(home, {"runs": "Running", "over": "Failed"})
        for uid, good in (("runs", True), ("over", False), ("never", False)):
            holder = f"job:{uid}"
            sas = make_sas(
                keys.key(ACCOUNT, holder),
                ACCOUNT,
                container.container_name,
                None,
                "r",
                now() + 600_000_000,
                holder=holder,
            )
            one = blob_with(ours, container.container_name, "b", sas)
            if good:
                assert one.download_blob().readall() == b"x"
            else:
                with pytest.raises(ClientAuthenticationError):
                    one.download_blob()

    def test_no_authorization_at_all(self, ours: Backend, container: ContainerClient) -> None:
        status, body = ask(ours, f"/{ACCOUNT}.blob.core.windows.net/{container.container_name}/b", "")
        assert (status, b"NoAuthenticationInformation" in body) == (401, True)

    def test_our_own_sas(self, ours: Backend, container: ContainerClient) -> None:
        import time

        from tidemill.wire.blob.sas import make_sas

        expires = int((time.time() + 600) * 1e6)
        sas = make_sas(ours.key, ACCOUNT, container.container_name, None, "rcwl", expires)
        inside = client_of(ours, credential=sas).get_container_client(container.container_name)
        inside.upload_blob("x", b"1", overwrite=True)
        assert names(inside) == ["x"]
