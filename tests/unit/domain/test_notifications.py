"""Who is told of which end: Azure's setting, our properties, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.domain import notifications
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.notifications import Hook, read_notify

ALL = ("JobCompleted", "JobFailed", "JobCancelled")


def setting(**given: Any) -> dict[str, Any]:
    return {"notificationSetting": given}


def test_azures_setting():
    found = read_notify(setting(emails=["ann@example.org"], emailOn=["JobFailed", "jobcanceled"]))
    assert found is not None
    assert (found.emails, found.email_on) == (("ann@example.org",), ("JobFailed", "JobCancelled"))
    assert notifications.emails_for(found, "JobFailed") == ("ann@example.org",)
    assert notifications.emails_for(found, "JobCompleted") == ()
    assert read_notify(setting(emails=["ann@example.org"])).email_on == ALL
    assert read_notify({}) is None
    assert read_notify(setting(emails=None, emailOn=["JobFailed"], webhooks=None)) is None


def test_webhooks_act_where_they_have_an_address():
    hooks = {
        "devops": {"webhookType": "AzureDevOps", "eventType": "JobFailed"},
        "chat": {
            "url": "https://chat.example.org/x?y=1",
            "eventType": "JobFailed",
            "headers": {"X-Key": "${{secrets.k}}"},
        },
    }
    found = read_notify(setting(webhooks=hooks))
    assert found is not None
    assert found.without_address == ("devops",)
    expected = Hook("chat", "https://chat.example.org/x?y=1", ("JobFailed",), (("X-Key", "${{secrets.k}}"),))
    assert found.hooks == (expected,)
    assert notifications.hooks_for(found, "JobFailed") == (expected,)
    assert notifications.hooks_for(found, "JobCompleted") == ()
    assert ("webhook chat", "${{secrets.k}}") in notifications.secret_texts(found.hooks)


def test_properties_say_it_too():
    own = {
        "tidemill.notify": "ann@example.org, https://h.example.org/a ${{secrets.hook}}",
        "tidemill.notify_on": "JobFailed",
    }
    found = read_notify({"properties": own})
    assert found is not None
    assert (found.emails, found.email_on) == (("ann@example.org",), ("JobFailed",))
    assert [hook.url for hook in found.hooks] == ["https://h.example.org/a", "${{secrets.hook}}"]
    assert all(hook.on == ("JobFailed",) for hook in found.hooks)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (setting(emails=["ann"]), "is no e-mail address"),
        (setting(emails=["ann@example.org\nBcc: x@y.z"]), "is no e-mail address"),
        (
            setting(emails="a@b.c", emailOn=["JobStarted"]),
            "'JobStarted' is no event. Use JobCompleted, JobFailed or",
        ),
        (setting(emails=[f"{'a' * 60}@{'b' * 60}.example.org"] * 5), "more than 499 characters"),
        (setting(webhooks={"h": {"url": "ftp://x/y"}}), "is no address that can be posted to"),
        (setting(webhooks={"h": {"url": "https://u:p@x.org/y"}}), "holds no user or password"),
        (setting(webhooks={"h": {"url": "https://x.org/a b"}}), "is no address"),
        (setting(webhooks={"h": {"url": "https://x.org:99999/"}}), "is no address"),
        (setting(webhooks={"h": {"url": "https://x.org", "headers": {"Host": "y"}}}), "is no header"),
        (setting(webhooks={"h": {"url": "https://x.org", "headers": {"X": "a\r\nY: b"}}}), "is no header"),
        (setting(webhooks={f"h{n}": {"url": "https://x.org"} for n in range(11)}), "at most 10"),
        (setting(emails=7), "must be a list"),
        ({"properties": {"tidemill.notify": "nobody"}}, "is no e-mail address"),
        ({"properties": {"tidemill.notify": "a@b.c", "tidemill.notify_on": "Friday"}}, "is no event"),
    ],
)
def test_refused_with_the_place(given: dict[str, Any], word: str):
    with pytest.raises(InvalidRequest) as refused:
        read_notify(given)
    assert word in refused.value.message
    assert (refused.value.target or "").startswith("properties.")


def test_pauses_grow_and_end():
    tries = [notifications.next_try(failures, 0) for failures in range(1, 11)]
    times = [at for at in tries if at is not None]
    assert times == sorted(times)
    assert len(times) == 8
    assert tries[8:] == [None, None]
    assert [notifications.retried(status) for status in (400, 404, 408, 429, 500, 503)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
