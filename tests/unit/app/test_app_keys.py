"""The master key's rotation over the rows, and checkpoints of the activity log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tidemill.app.assets import connections
from tidemill.app.checkpoints import NAME, Checkpoints
from tidemill.app.people import secretstore
from tidemill.app.rows.sealed import sealed_of
from tidemill.app.upkeep import keys
from tidemill.app.views import activity_views
from tidemill.domain.activity import Head, Outcome, Record, chained
from tidemill.domain.model import Key
from tidemill.domain.secretrefs import SecretRef
from tidemill.identity import keys as key_files
from tidemill.identity.secrets import key_id_of
from tidemill.identity.signing import SigningKeys
from tidemill.store.api import ResourceQuery


class Killed(Exception):
    pass


@pytest.fixture
def home(services):
    """A home with real key files behind the services."""
    directory = services.settings.home / "secrets"
    services.secrets.take(key_files.load_or_create(directory).master)
    return services


async def fill(services, scope, owner, count):
    for at in range(count):
        await secretstore.put(services, owner, scope, f"s{at}", f"value-{at}")
    credentials = {"credentials": {"pat": "pat-value"}}
    body = {"properties": {"category": "Git", "authType": "PAT", "target": "x", **credentials}}
    await connections.put(services, owner, scope, "git", body)


async def key_ids(services):
    def read(r):
        rows = [row for kind in keys.SEALED_TYPES for row in r.find(ResourceQuery(kind))]
        return [key_id_of(sealed) for row in rows if (sealed := sealed_of(row)) is not None]

    return await services.store.read(read)


async def test_everything_is_sealed_anew_and_old_keys_are_forgotten(home, scope, owner, monkeypatch):
    monkeypatch.setattr(keys, "_BATCH", 3)
    await fill(home, scope, owner, 8)
    old = home.secrets.current
    resealer = keys.Resealer(home)
    resealer.start()
    message = keys.rotate_master(home)
    assert home.secrets.current in message
    forgotten = asyncio.Event()
    home.secrets.on_take(forgotten.set)
    await asyncio.wait_for(forgotten.wait(), 60)
    await resealer.stop()
    assert set(await key_ids(home)) == {home.secrets.current} != {old}
    directory = keys.secrets_directory(home)
    assert list(key_files.load_or_create(directory).master) == [home.secrets.current]
    value = await secretstore.value_of(home, scope, SecretRef("s7"))
    assert value.text == "value-7"
    await home.activity.flush()
    (record,) = await home.store.read(lambda r: r.activity_from(1, 10))
    assert record.action.endswith("keys/forget/action")


async def test_a_kill_half_way_goes_on_at_the_next_start(home, scope, owner, monkeypatch):
    monkeypatch.setattr(keys, "_BATCH", 2)
    await fill(home, scope, owner, 5)
    keys.rotate_master(home)
    resealer, batches = keys.Resealer(home), 0
    real = resealer._batch

    def until_killed(tx, query):
        nonlocal batches
        batches += 1
        if batches == 6:  # within the versions of secrets
            raise Killed
        return real(tx, query)

    monkeypatch.setattr(resealer, "_batch", until_killed)
    with pytest.raises(Killed):
        await resealer.reseal()
    assert len(set(await key_ids(home))) == 2
    # The next start reads both keys from the file, and every value still opens.
    home.secrets.take(key_files.load_or_create(keys.secrets_directory(home)).master)
    assert len(home.secrets.key_ids) == 2
    for at in range(5):
        value = await secretstore.value_of(home, scope, SecretRef(f"s{at}"))
        assert value.text == f"value-{at}"
    await keys.Resealer(home).reseal()
    assert set(await key_ids(home)) == {home.secrets.current}
    assert len(home.secrets.key_ids) == 1


async def test_a_value_that_does_not_open_keeps_the_old_key(home, scope, owner):
    await fill(home, scope, owner, 1)
    made = (await secretstore.versions_of(home, scope, "s0"))[0]
    row = await home.store.read(lambda r: r.get(Key(scope, "secrets/versions", made.version, "s0")))
    await home.store.write(lambda tx: tx.update(replace(row, status=row.status.replace(b"A", b"B"))))
    keys.rotate_master(home)
    with pytest.raises(ValueError, match=r".+"):
        await keys.Resealer(home).reseal()
    assert len(home.secrets.key_ids) == 2


class Clock:
    def __init__(self, at: int = 1) -> None:
        self.at = at

    def now(self) -> int:
        return self.at


def record(number: int) -> Record:
    return Record(number, "a/b", Outcome.SUCCEEDED)


async def test_a_cut_log_is_found_by_a_signed_checkpoint(home, tmp_path: Path):
    key_files.load_or_create(tmp_path / "k")
    signing = SigningKeys(tmp_path / "k")
    points = Checkpoints(tmp_path / NAME, signing, Clock())
    home.activity.start(home.store, points)
    for number in range(5):
        home.activity.record(record(number))
    await home.activity.flush()
    points.write()
    whole = await activity_views.verify(home)
    assert (whole["broken"], whole["checkpoints"], whole["last"]) == (None, 1, 5)
    # Cut, with a head that was made to fit.
    kept = (await home.store.read(lambda r: r.activity_from(1, 3)))[-1]
    log = home.store._read._tables.activity
    del log[3:]
    head = f"3:{kept.hash.hex()}".encode()
    await home.store.write(lambda tx: tx.set_meta("activity.head", head))
    found = await activity_views.verify(home)
    assert found["broken"]["seq"] == 4
    assert "signed checkpoint" in found["broken"]["why"]


def test_checkpoints_verify_after_a_rotation_and_forged_ones_do_not_count(tmp_path: Path):
    key_files.load_or_create(tmp_path / "k")
    signing = SigningKeys(tmp_path / "k")
    head = [Head(r.seq, r.hash) for r in chained(Head(), [record(1), record(2)])]
    path = tmp_path / NAME

    async def run() -> None:
        points = Checkpoints(path, signing, Clock())
        points.note(head[0])
        points.write()
        signing.rotate(5, at_once=True)
        points.note(head[1])
        points.write()
        points.write()

    asyncio.run(run())
    assert [p.seq for p in Checkpoints(path, signing, Clock()).read()] == [1, 2]
    lines = path.read_bytes().splitlines()
    forged = lines[1].replace(b'"seq":2', b'"seq":9')
    path.write_bytes(b"\n".join([lines[0], forged, b"no json", lines[1][:40]]))
    assert [p.seq for p in Checkpoints(path, signing, Clock()).read()] == [1]

    async def after_the_torn_line() -> None:
        points = Checkpoints(path, signing, Clock())
        points.note(head[1])
        points.write()
        assert [p.seq for p in points.read()] == [1, 2]

    asyncio.run(after_the_torn_line())
