"""Secrets of a workspace: versions, sealing, and who gets a value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidemill.app.people import secretstore
from tidemill.domain.activity import Outcome
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Caller, Key, Resource
from tidemill.domain.plan import JobPlan
from tidemill.domain.secretrefs import SecretRef

VALUE = "v-e-r-y-secret"
USES = (("TOKEN", "${{secrets.hf-token}}"),)


async def put(services, owner, scope, name="hf-token", value=VALUE):
    return await secretstore.put(services, owner, scope, name, value)


def job_of(scope, owner, *texts):
    job = Resource("j" * 32, Key(scope, "jobs", "train"), created_by=owner.name)
    variables = tuple((f"V{at}", text) for at, text in enumerate(texts))
    return job, JobPlan(CommandJob("true", environment_variables=variables), "c", "", user=owner.oid)


async def test_versions_are_kept_and_the_newest_counts(services, scope, owner):
    first = await put(services, owner, scope)
    second = await put(services, owner, scope, "HF-token", "second")
    assert second.name == "hf-token"
    assert first.version != second.version
    found = await secretstore.versions_of(services, scope, "hf-token")
    assert [(v.version, v.newest) for v in found] == [(second.version, True), (first.version, False)]
    value = await secretstore.value_of(services, scope, SecretRef("hf-token"))
    assert value.text == "second"
    assert "second" not in repr(value)
    old = await secretstore.value_of(services, scope, SecretRef("hf-token", first.version))
    assert old.text == VALUE
    assert [s.name for s in await secretstore.list_of(services, scope)] == ["hf-token"]


async def test_values_lie_sealed_each_in_its_own_row(services, scope, owner):
    a = await put(services, owner, scope, "a")
    b = await put(services, owner, scope, "b", "other")
    rows = [
        await services.store.read(lambda r, k=key: r.get(k))
        for key in (
            Key(scope, "secrets", "a"),
            Key(scope, "secrets/versions", a.version, "a"),
            Key(scope, "secrets/versions", b.version, "b"),
        )
    ]
    assert not [row for row in rows if VALUE.encode() in row.spec + row.status]
    moved = replace(rows[2], status=rows[1].status)
    await services.store.write(lambda tx: tx.update(moved))
    with pytest.raises(ValueError, match="belongs to something else"):
        await secretstore.value_of(services, scope, SecretRef("b"))


async def test_disabled_and_deleted(services, scope, owner):
    made = await put(services, owner, scope)
    await secretstore.enable(services, owner, scope, "hf-token", made.version, False)
    with pytest.raises(Forbidden, match="is disabled"):
        await secretstore.value_of(services, scope, SecretRef("hf-token"))
    await secretstore.delete(services, owner, scope, "hf-token")
    for look in (secretstore.versions_of, secretstore.delete):
        args = (services, owner, scope) if look is secretstore.delete else (services, scope)
        with pytest.raises(NotFound, match=r"There are none yet\. Set it with: tidemill secret set hf-token"):
            await look(*args, "hf-token")
    await put(services, owner, scope, "other")
    with pytest.raises(NotFound, match="Did you mean 'other'"):
        await secretstore.value_of(services, scope, SecretRef("othe"))


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "x" * 128, "ä"])
async def test_bad_names(services, scope, owner, name):
    with pytest.raises(InvalidRequest, match="is not valid"):
        await put(services, owner, scope, name)


@pytest.mark.parametrize("value", ["", "a\0b", "x" * 25_601])
async def test_bad_values_are_not_told(services, scope, owner, value):
    with pytest.raises(InvalidRequest, match="1 to 25600 bytes") as refused:
        await put(services, owner, scope, "a", value)
    assert "xxx" not in refused.value.message


async def test_a_job_gets_the_values_and_each_is_recorded(services, scope, owner):
    made = await put(services, owner, scope)
    services.activity.start(services.store)
    job, plan = job_of(scope, owner, "${{secrets.hf-token}}", "plain")
    values = await secretstore.for_job(services, job, plan)
    assert values == {SecretRef("hf-token"): VALUE}
    (record,) = await services.store.read(lambda r: r.activity_from(1, 10))
    assert (record.actor, record.actor_name, record.actor_kind) == (job.uid, "train", "job")
    assert record.resource.endswith(f"/secrets/hf-token/versions/{made.version}")
    assert record.assignment
    assert owner.name in record.reason
    assert VALUE not in repr(record)


async def test_who_may_not_read_it_cannot_submit_nor_start(services, scope, owner):
    await put(services, owner, scope)
    stranger = Caller("nobody", "eve", "user")
    with pytest.raises(Forbidden, match="not a principal here any more"):
        await secretstore.check_usable(services, stranger, scope, USES)
    services.activity.start(services.store)
    job, plan = job_of(scope, stranger, "${{secrets.hf-token}}")
    with pytest.raises(Forbidden):
        await secretstore.for_job(services, job, plan)
    await services.activity.flush()
    (record,) = await services.store.read(lambda r: r.activity_from(1, 10))
    assert record.outcome is Outcome.REFUSED
    running = Caller("j" * 32, "train", "job", scope, "train")
    with pytest.raises(Forbidden):
        await secretstore.check_usable(services, running, scope, USES)


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LOCPATH"])
async def test_not_in_a_variable_that_a_sandbox_sets_on_its_command_line(services, scope, owner, name):
    await put(services, owner, scope)
    await secretstore.check_usable(services, owner, scope, [*USES, (name, "plain")])
    with pytest.raises(InvalidRequest, match="which every process sees"):
        await secretstore.check_usable(services, owner, scope, [(name, "x${{secrets.hf-token}}")])


async def test_a_log_that_cannot_be_written_gives_nothing(services, scope, owner):
    from tidemill.domain.errors import OutOfSpace

    class Full:
        async def write(self, fn):
            raise OutOfSpace("full")

    await put(services, owner, scope)
    services.activity.start(Full())  # type: ignore[arg-type]
    job, plan = job_of(scope, owner, "${{secrets.hf-token}}")
    with pytest.raises(OutOfSpace, match="no secret is given"):
        await secretstore.for_job(services, job, plan)
    services.activity.start(services.store)
