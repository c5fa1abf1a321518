"""Messages at the end of jobs: written with the end, sent at least once, told in the time line."""

from __future__ import annotations

from typing import Any

import pytest
from world import FOREVER, OWNER, SCOPE, SECOND, World

from receivers import HookReceiver, MailServer
from tidemill.app.assets import assets
from tidemill.app.jobs import endings, families, jobs, kept_nodes, notices
from tidemill.app.people import secretstore
from tidemill.app.rows.asset_rows import COMPONENTS
from tidemill.app.rows.codec import decode_object
from tidemill.controllers import due
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.model import JobState, Resource
from tidemill.engines.fake import Plan


def hooked(url: str, **more: Any) -> dict[str, Any]:
    return {"notificationSetting": {"webhooks": {"chat": {"url": url, **more}}}}


async def settings(world: World, **given: Any) -> None:
    await notices.put_settings(world.services, OWNER, {"webhooks": "127.0.0.1", **given})


def waiting(world: World) -> list[Resource]:
    return list(notices.pending(world.read()))


def failures(world: World) -> int | None:
    """Of the message that waits."""
    rows = waiting(world)
    return notices.notice_of(rows[0]).failures if rows else None


def said(world: World, name: str) -> list[str]:
    return [f"{e.code}: {e.message}" for e in world.read().events(world.row(name).uid)]


async def until_said(world: World, name: str, word: str) -> None:
    await world.until(
        lambda: any(word in line for line in said(world, name)), f"{word!r} in {said(world, name)}"
    )


async def test_a_webhook_is_told_of_every_end(world: World):
    await settings(world)
    await world.start()
    await world.cluster()
    world.plans["bad"] = Plan(exit_code=3)
    world.plans["long"] = FOREVER
    with HookReceiver() as receiver:
        for name in ("good", "bad", "long"):
            await world.submit(name, "cpu", **hooked(receiver.url))
        await world.until(lambda: world.row("long").state == JobState.RUNNING)
        await endings.cancel(world.services, OWNER, SCOPE, "long")
        await world.until(lambda: len(receiver.posts) == 3, "told of all three")
        await world.until(lambda: not waiting(world))
    told = {post["job"]["name"]: post for post in receiver.posts}
    assert {name: post["event"] for name, post in told.items()} == {
        "good": "JobCompleted",
        "bad": "JobFailed",
        "long": "JobCancelled",
    }
    assert told["bad"]["job"]["error"]["code"] == "UserError"
    assert told["bad"]["job"]["submitted_by"] == "owner"
    assert told["good"]["job"]["cost_usd"] is not None
    assert told["good"]["page"].endswith("/jobs/good")
    assert "NotificationSent: Webhook chat was sent." in said(world, "good")
    assert {post["id"] for post in receiver.posts} == {h["X-Tidemill-Delivery"] for h in receiver.headers}


async def test_only_of_the_ends_that_were_asked_for(world: World):
    await settings(world)
    await world.start()
    await world.cluster()
    with HookReceiver() as receiver:
        await world.submit("good", "cpu", **hooked(receiver.url, eventType="JobFailed"))
        await world.ended("good")
        assert waiting(world) == []
    assert receiver.posts == []


async def test_what_does_not_get_through_is_tried_again_and_told_once(world: World):
    await settings(world)
    await world.start()
    await world.cluster()
    with HookReceiver(503, 503, 200) as receiver:
        await world.submit("a", "cpu", **hooked(receiver.url))
        await until_said(world, "a", "NotificationDelayed: Webhook chat was not sent: 127.0.0.1 answers 503.")
        for count, pause in ((2, 10), (3, 30)):
            await world.until(lambda n=count: failures(world) == n - 1, "the failure is noted")
            world.clock.ahead += (pause + 1) * SECOND
            world.running.notices.changed()
            await world.until(lambda n=count: len(receiver.posts) == n, "the next try")
        await until_said(world, "a", "NotificationSent")
    assert sum(line.startswith("NotificationDelayed") for line in said(world, "a")) == 1
    assert len({post["id"] for post in receiver.posts}) == 1


async def test_it_is_given_up_in_the_end(world: World):
    await settings(world)
    await world.start()
    await world.cluster()
    with HookReceiver(500) as receiver:
        await world.submit("a", "cpu", **hooked(receiver.url))
        for n in range(1, 10):
            await world.until(lambda n=n: len(receiver.posts) >= n, f"try {n}")
            await world.until(
                lambda n=n: not waiting(world) or notices.notice_of(waiting(world)[0]).failures == n
            )
            world.clock.ahead += 14401 * SECOND
            world.running.notices.changed()
        await until_said(world, "a", "NotificationFailed: Webhook chat was not sent after 9 tries")
    assert waiting(world) == []


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_kill_loses_nothing(world: World, when: str, monkeypatch: pytest.MonkeyPatch):
    """Before it was sent, or after that and before it was noted: then it is sent twice, with one id."""
    from tidemill.app.jobs import notice_sending

    await settings(world)
    await world.start()
    await world.cluster()
    killed: list[str] = []

    async def never(*given: Any) -> None:
        killed.append(when)
        raise RuntimeError("killed here")

    with HookReceiver() as receiver:
        monkeypatch.setattr(due, "AGAIN_S", 3600)  # not again before the restart
        monkeypatch.setattr(notice_sending, "_settle" if when == "during" else "_send", never)
        await world.submit("a", "cpu", **hooked(receiver.url))
        await world.ended("a")
        await world.until(lambda: bool(killed))
        assert len(receiver.posts) == (when == "during")
        monkeypatch.undo()
        await world.restart()
        await until_said(world, "a", "NotificationSent")
    assert len(receiver.posts) == (2 if when == "during" else 1)
    assert len({post["id"] for post in receiver.posts}) == 1


async def test_by_the_rule_of_a_new_home_nothing_on_this_host_is_reached(world: World):
    await world.start()
    await world.cluster()
    with HookReceiver() as receiver:
        await world.submit("a", "cpu", **hooked(receiver.url))
        await until_said(
            world, "a", "NotificationFailed: Webhook chat was not sent: 127.0.0.1 is 127.0.0.1, which"
        )
    assert receiver.posts == []


async def test_secrets_of_a_webhook_are_read_when_it_is_sent(world: World, monkeypatch: pytest.MonkeyPatch):
    async def written(*_: object) -> bool:  # no activity log runs here
        return True

    monkeypatch.setattr(type(world.services.activity), "flush", written)
    await settings(world)
    await world.start()
    await world.cluster()
    with HookReceiver() as receiver:
        secret = hooked("${{secrets.hook}}", headers={"Authorization": "Bearer ${{secrets.token}}"})
        with pytest.raises(NotFound, match="Secret 'hook' was not found"):
            await world.submit("a", "cpu", **secret)
        for name, value in (("hook", receiver.url), ("token", "t0p")):
            await secretstore.put(world.services, OWNER, SCOPE, name, value)
        await world.submit("a", "cpu", **secret)
        await world.until(lambda: len(receiver.posts) == 1)
        await until_said(world, "a", "NotificationSent")
    assert receiver.headers[0]["Authorization"] == "Bearer t0p"
    assert "t0p" not in str(said(world, "a"))


async def test_mail(world: World):
    await world.start()
    await world.cluster()
    with MailServer() as server:
        smtp = {
            "host": "127.0.0.1",
            "port": server.port,
            "security": "none",
            "sender": "tidemill@example.org",
        }
        await settings(world, smtp=smtp, recipients=["example.org"])
        world.plans["bad"] = Plan(exit_code=3)
        own = {"tidemill.notify": "ann@example.org ben@example.org", "tidemill.notify_on": "JobFailed"}
        await world.submit("good", "cpu", properties=own)
        await world.ended("good")
        await world.submit("bad", "cpu", properties=own, displayName="train\r\nBcc: eve@example.org")
        await until_said(world, "bad", "NotificationSent: E-mail to ann@example.org, ben@example.org was")
        (mail,) = server.messages
        assert server.recipients == ["ann@example.org", "ben@example.org"]
        assert str(mail["Subject"]).startswith("trainBcc: eve@example.org failed after")
        assert mail["Bcc"] is None
        assert "UserError: " in mail.get_payload()
        other = {"tidemill.notify": "eve@elsewhere.org"}
        await world.submit("other", "cpu", properties=other)
        await until_said(world, "other", "eve@elsewhere.org is not among the recipients")
        assert len(server.messages) == 1


async def test_without_a_mail_server_the_time_line_says_so_at_the_submit(world: World):
    setting = {"emails": ["ann@example.org"], "webhooks": {"devops": {"webhookType": "AzureDevOps"}}}
    row = await world.submit("a", notificationSetting=setting)
    assert decode_object(row.spec)["notificationSetting"] == setting
    assert any("no mail server is set" in line for line in said(world, "a"))
    assert any("Webhook devops has no url" in line for line in said(world, "a"))


async def test_settings_are_sealed_merged_and_checked(world: World):
    s = world.services
    smtp = {"host": "mail.example.org", "sender": "t@example.org", "user": "t", "password": "p4ss"}
    await notices.put_settings(s, OWNER, {"smtp": smtp})
    made = await notices.put_settings(s, OWNER, {"smtp": {"port": 2525}})
    assert made.smtp is not None
    assert (made.smtp.password, made.smtp.port, made.smtp.security) == ("p4ss", 2525, "starttls")
    assert notices.shown(made)["smtp"]["password"] is True
    row = world.read().get(notices.key_of(s.settings.subscription))
    assert b"p4ss" not in row.spec + row.status
    for wrong in (
        {"smtp": {"security": "none"}},
        {"smtp": {"port": 0.5}},
        {"smtp": {"sender": "nobody"}},
        {"smtp": {"colour": "red"}},
        {"webhooks": "internet 10.0.0.0/8"},
        {"recipients": "x"},
        {"other": 1},
    ):
        with pytest.raises(InvalidRequest):
            await notices.put_settings(s, OWNER, wrong)
    await notices.put_settings(s, OWNER, {"smtp": None})
    assert (await notices.settings_of(s)).smtp is None


async def test_a_pipeline_tells_of_its_own_end_and_its_steps_keep_their_nodes(world: World):
    await settings(world)
    await world.start()
    world.plans["bad"] = Plan(exit_code=3)
    spec = {"type": "command", "name": "bad", "version": "1", "command": "run bad"}
    body = {"properties": {"componentSpec": spec}}
    await assets.put_version(world.services, OWNER, SCOPE, COMPONENTS, "bad", "1", body)
    step = {
        "type": "command",
        "componentId": f"{SCOPE.arm_id}/components/bad/versions/1",
        "properties": {"tidemill.keep_on_failure": "10m"},
    }
    with HookReceiver() as receiver:
        told = {"tidemill.notify": receiver.url, "tidemill.keep_on_failure": "5m"}
        pipeline = {"jobType": "Pipeline", "jobs": {"bad": step}, "properties": told}
        await jobs.submit(world.services, OWNER, SCOPE, "p", {"properties": pipeline})
        await world.until(lambda: len(receiver.posts) == 1, "told once, not of the step")
    assert receiver.posts[0]["job"]["type"] == "pipeline"
    assert receiver.posts[0]["event"] == "JobFailed"
    assert any("keeps no nodes: it is a property of a step" in line for line in said(world, "p"))
    (child,) = families.children(world.read(), world.row("p"))
    kept = kept_nodes.of(child)
    assert kept is not None
    await kept_nodes.release_now(world.services, OWNER, SCOPE, child.key.name)
    await world.until(lambda: not world.nodes())
