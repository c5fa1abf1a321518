"""The portal's pages about people, shares and the host, as an owner, a reader and a stranger get them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from jobserver import JobServer, until
from portalhouse import House, Reply

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    server = JobServer(tmp_path_factory.mktemp("house") / "home")
    server.start()
    server.cluster("cpu", high=1)
    house = House(server)
    for name in ("reader", "stranger", "ann"):
        house.make(name)
    house.access("create-group", "vision")
    house.access("add-member", "vision", "ann")
    house.access("grant", "reader", "Reader")
    house.access("grant", "vision", "AzureML Data Scientist")
    yield house
    server.end()


def test_nobody_is_asked_to_sign_in(house: House) -> None:
    for page in ("access", "access/grant", "access/revoke/x"):
        answer = house.get("", page)
        assert answer.status == 401
        assert "Sign in" in answer.text
        assert "reader" not in answer.text


def test_a_stranger_reads_which_right_is_missing_and_who_can_give_it(house: House) -> None:
    owner = house.access("list", "--scope", "subscription")[0]["principal"]
    for page in ("access", "jobs", "computes"):
        answer = house.get("stranger", page)
        assert answer.status == 403
        assert answer.headers["content-type"].startswith("text/html")
        assert "'stranger' has no role at" in answer.text
        assert re.search(
            r"The right that is missing Microsoft\.MachineLearningServices/workspaces/\S*read", answer.text
        )
        assert "Where workspace main" in answer.text
        assert f"Who can give one {owner}" in answer.text
        assert re.search(r"tidemill access grant stranger \S+.* --scope /subscriptions/", answer.text)
        assert "vision" not in answer.text


def test_the_owner_sees_everybody(house: House) -> None:
    page = house.get("owner", "access")
    assert page.status == 200
    assert re.search(r"Owner at subscription", page.text)
    people = page.text.partition("People, groups and programs")[2]
    assert re.search(r"vision group – ann \d+ (s|min) ago", people)
    assert re.search(r"ann user vision –", people)
    assert "Subscription Who Kind Role" in page.text
    assert "Workspace main Who Kind Role" in page.text
    assert "No custom roles." in page.text
    assert "Microsoft.MachineLearningServices/workspaces/*/write" in page.text
    found = house.get("owner", "access?q=ISI")
    assert "vision" in found.text
    assert "stranger" not in found.text.partition("People, groups and programs")[2]
    nothing = house.get("owner", "access?q=" + quote(EVIL))
    assert EVIL not in nothing.html
    assert "Nobody has" in nothing.text


def test_a_reader_sees_roles_but_gives_none(house: House) -> None:
    page = house.get("reader", "access")
    assert page.status == 200
    assert "Reader at workspace main" in page.text
    assert "vision group AzureML Data Scientist" in page.text
    assert "access/revoke/" not in page.html
    assert "To give roles here you need another right." in page.text
    assert "Microsoft.Authorization/roleAssignments/write" in page.text
    assert "To see who there is you need another right." in page.text
    assert "stranger" not in page.text  # has no role here
    for path in ("access/grant?to=reader&role=Owner", "access/revoke/" + assignment(house, "vision")):
        answer = house.get("reader", path)
        assert answer.status == 403
        assert "Microsoft.Authorization/roleAssignments/" in answer.text


def test_who_may_not_read_roles_sees_the_own_ones(house: House) -> None:
    page = house.get("ann", "access")
    assert "AzureML Data Scientist at workspace main , through group vision" in page.text
    assert "To see who has a role here you need another right." in page.text
    assert "reader" not in page.text.replace("Reader", "")
    about_herself = house.get("ann", "access?action=jobs/write")
    assert "Yes ann may jobs/write at workspace main" in about_herself.text
    about_another = house.get("ann", "access?action=jobs/write&who=reader")
    assert "About others you may only ask with another right." in about_another.text
    assert "may not jobs/write" not in about_another.text


def test_explain_names_the_deciding_assignment_and_the_chain(house: House) -> None:
    ask = {"who": "ann", "action": "jobs/write", "scope": "workspace"}
    page = house.get("owner", "access?" + urlencode(ask))
    decides = re.search(r'<li class="decides">(.*?)</li>', page.html, re.S)
    assert decides
    assert assignment(house, "vision") in decides[1]
    text = Reply(200, page.headers, decides[1]).text
    assert "ann › in group vision › is AzureML Data Scientist at workspace main : allows it by" in text
    told = house.server.cli("access", "explain", "ann", "jobs/write").stdout
    assert assignment(house, "vision") in told
    no = house.get(
        "owner", "access?" + urlencode({**ask, "action": "computes/write", "scope": "computes/cpu"})
    )
    assert "No ann may not computes/write at computes/cpu of workspace main" in no.text
    assert "excepts it by" in no.text
    assert "Roles that would allow it, the narrowest first: " in no.text
    for wrong, said in (
        ({"who": "an"}, "Did you mean 'ann'?"),
        ({"action": "jobs/writes"}, "Did you mean jobs/write"),
        ({"scope": "everywhere"}, "is no scope: give workspace"),
        ({"scope": "/subscriptions/other"}, "is no scope"),
        ({"who": EVIL}, "was not found"),
    ):
        page = house.get("owner", "access?" + urlencode({**ask, **wrong}))
        assert page.status == 200
        assert said in page.text, wrong
        assert EVIL not in page.html


def test_a_role_is_given_and_taken_away(house: House) -> None:
    house.make("bob")
    assert house.get("bob", "jobs").status == 403
    ask = {"to": "bob", "role": "reader", "at": "workspace", "why": "looks at runs " + EVIL}
    look = house.get("owner", "access/grant?" + urlencode(ask))
    assert look.status == 200
    assert "Give this role?" in look.text
    assert EVIL not in look.html
    assert house.get("bob", "jobs").status == 403  # looking gives nothing
    for twice in range(2):  # a second press gives it once
        done = house.submit_form("owner", look)
        assert (done.status, done.headers["location"]) == (303, f"{house.base}/access?done=given"), twice
    assert house.get("bob", "jobs").status == 200
    page = house.get("owner", "access?done=given")
    assert "The role is given" in page.text
    assert page.text.count("looks at runs") == 1
    assert "Conflict" not in page.text
    again = house.submit_form("owner", house.get("owner", "access/grant?" + urlencode(ask)))
    assert again.status == 409
    assert "already exists" in again.text

    ask = house.get("owner", "access/revoke/" + assignment(house, "bob"))
    assert "Take this role away?" in ask.text
    gone = house.submit_form("owner", ask)
    assert gone.headers["location"].endswith("/access?done=taken")
    assert house.get("bob", "jobs").status == 403
    assert house.submit_form("owner", ask).status == 404
    kept = house.cli("activity", "list", "--what", "roleAssignments")
    assert kept[0]["scope"] == house.server.workspace
    assert {"write", "delete"} <= {record["action"].rsplit("/", 1)[1] for record in kept}


def test_what_cannot_be_given_is_said_in_the_form(house: House) -> None:
    for ask, said in (
        ({"to": "bobby", "role": "Reader"}, "Did you mean"),
        ({"to": "ann", "role": "Raeder"}, "Did you mean 'Reader'?"),
        ({"to": "ann", "role": "Reader", "at": "nowhere"}, "is no scope"),
        ({}, "was not found"),
    ):
        page = house.get("owner", "access/grant?" + urlencode(ask))
        assert page.status == 400
        assert said in page.text, ask
        assert 'name="to"' in page.html  # to be corrected


def test_an_owner_of_one_workspace_gives_roles_by_exact_name_only(house: House) -> None:
    house.make("lead")
    house.access("grant", "lead", "Owner")
    wrong = house.get("lead", "access/grant?to=strangr&role=Reader")
    assert "'strangr' was not found. Give the exact name" in wrong.text
    assert "stranger" not in wrong.text
    asked = house.get("lead", "access?action=jobs/read&who=strangr")
    assert "Give the exact name" in asked.text
    assert "stranger" not in asked.text
    assert "Give this role?" in house.get("lead", "access/grant?to=stranger&role=Reader").text
    above = house.get("lead", "access/grant?to=stranger&role=Reader&at=subscription")
    assert above.status == 403
    assert "Where subscription" in above.text
    house.access("delete", "lead")


def test_forms_of_other_sites_give_nothing(house: House) -> None:
    look = house.get("owner", "access/grant?to=stranger&role=Owner&at=subscription")
    for origin in ("", "http://evil.example", "null"):
        assert house.submit_form("owner", look, origin=origin).status == 401
    assert house.get("stranger", "access").status == 403
    # Whom the confirmation was not made for cannot send it either: the gate decides at the scope itself.
    assert house.submit_form("reader", look).status == 403


def test_the_last_owner_stays(house: House) -> None:
    page = house.get("owner", "access")
    mine = next(one for one in house.access("list", "--scope", "subscription") if one["role"] == "Owner")
    id = mine["id"].rsplit("/", 1)[1]
    assert f"access/revoke/{id}" in page.html
    answer = house.submit_form("owner", house.get("owner", f"access/revoke/{id}"))
    assert answer.status == 409
    assert "would leave the subscription without an owner" in answer.text


def assignment(house: House, who: str) -> str:
    """The id of the one assignment that somebody has in the workspace."""
    [found] = [one for one in house.access("list") if one["principal"] == who]
    return found["id"].rsplit("/", 1)[1]


def test_the_log_of_a_workspace(house: House) -> None:
    assert house.get("stranger", "jobs").status == 403
    mine = house.get("owner", "activity")
    assert "computes/write" in mine.text
    assert "'stranger' has no role at workspace main." in mine.text
    refused = house.get("owner", "activity?refused=1&who=stranger")
    assert "Refused 403 AuthorizationFailed" in refused.text
    assert "Succeeded" not in refused.text
    assert house.get("owner", "activity?what=jobs/del*te&who=owner").text.count("Nothing of that kind") == 1
    hostile = house.get("owner", "activity?" + urlencode({"who": EVIL, "what": '"><b>'}))
    assert hostile.status == 200
    assert EVIL not in hostile.html
    assert '"><b>' not in hostile.html
    assert house.get("owner", "activity?after=x").status == 400


def test_the_log_goes_on_to_older_records(house: House) -> None:
    for number in range(60):
        assert house.server.arm("POST", f"jobs/none-{number}/cancel")[0] == 404
    query, seen = "activity?what=jobs/cancel", list[str]()
    first = house.get("owner", query)
    assert "Newest" not in first.text
    while True:
        page = house.get("owner", query)
        seen += re.findall(r"jobs/cancel/action (none-\d+)/cancel", page.text)
        older = re.search(r'href="([^"]+)" rel="next"', page.html)
        if older is None:
            break
        query = unescape(older[1])
        assert len(seen) <= 60
    assert "Newest" in page.text
    assert seen == [f"none-{number}" for number in reversed(range(60))]


def test_who_may_check_the_whole_log(house: House) -> None:
    assert "Is the log whole? Check every record" in house.get("owner", "activity").text
    checked = house.get("owner", "activity?verify=1")
    assert re.search(r"Yes \d+ records hold \(1 to \d+\)", checked.text)
    assert re.search(r"tidemill activity verify --against \d+:[0-9a-f]{64}", checked.text)
    # Of the whole server are sign-ins, too.
    assert "Nothing of that kind was recorded" in house.get("owner", "activity?what=signIn").text
    assert "signIn/action" in house.get("owner", "activity?all=1&what=signIn").text
    page = house.get("reader", "activity")
    assert page.status == 200
    assert "you need another right" in page.text
    assert "Microsoft.Insights/eventtypes/values/Read" in page.text
    for query in ("all=1", "verify=1"):
        answer = house.get("reader", f"activity?{query}")
        assert answer.status == 403
        assert "Where subscription" in answer.text
    assert house.get("stranger", "activity").status == 403


def test_an_empty_queue_and_no_quota_say_what_to_type(house: House) -> None:
    assert "Nothing waits here" in house.get("reader", "queue").text
    page = house.get("reader", "quotas")
    assert "No quota holds for you" in page.text
    assert "tidemill quota set --team vision --cores 8" in page.text
    for name in ("queue", "quotas"):
        answer = house.get("stranger", name)
        assert answer.status == 403
        assert "workspaces/jobs/read" in answer.text


@pytest.fixture(scope="module")
def busy(house: House) -> Iterator[House]:
    """One job runs, one waits for it, and a quota holds for both."""
    server = house.server
    house.cli("quota", "set", "--compute", "cpu", "--nodes", "1")
    house.cli("quota", "set", "--user", "*", "--jobs", "5")
    compute = f"{server.workspace}/computes/cpu"
    server.submit(
        "first", "sleep 3600", computeId=compute, limits={"jobLimitsType": "Command", "timeout": "PT1H"}
    )
    server.until_state("first", "Running")
    server.submit("second", "true", computeId=compute)
    yield house
    for name in ("second", "first"):
        server.cancel(name)


def test_the_queue_shows_order_share_and_reason(busy: House) -> None:
    server = busy.server
    until(lambda: "second" in busy.get("reader", "queue").text, what="second in the queue")
    page = busy.get("reader", "queue")
    row = re.search(r"1 second (Waits for .*?) cpu 1 × Standard_DS2_v2 .*? \d\.\d\d holds \d+ %", page.text)
    assert row, page.text
    assert "its quotas" in page.text
    assert 'hx-trigger="every 2s"' in page.html
    poll = unescape(re.search(r'hx-get="([^"]+seen=[^"]+)"', page.html)[1])  # type: ignore[index]
    again = busy.get("reader", re.sub("seen=.*", "seen=x", poll), hx_request="true")
    assert again.html.lstrip().startswith('<div id="live"')
    # Somebody of another workspace sees that something waits, not what.
    other = server.workspace.rsplit("/", 1)[0] + "/other"
    assert server.call("PUT", f"{other}?api-version=2024-10-01", {"location": "eastus"})[0] in (200, 201)
    busy.make("guest")
    busy.access("grant", "guest", "Reader", "--scope", other)
    assert busy.get("guest", "queue").status == 403
    foreign = busy.get("guest", busy.base.rsplit("/", 1)[0] + "/other/queue?all=1")
    assert "another team's job" in foreign.text
    assert "second" not in foreign.text
    assert "cpu" not in foreign.text
    assert "another team's job" not in busy.get("guest", busy.base.rsplit("/", 1)[0] + "/other/queue").text


def test_quotas_are_equations_with_holders_and_their_release(busy: House) -> None:
    page = busy.get("owner", "quotas?job=second")
    asked, _, limits = page.text.partition("Limits and shares")
    assert "does not fit 1 used + 1 asked = 2, limit 1 node Holds Job" in asked
    assert re.search(r"1 node first \S+ cpu-\w+ \d.*? ago in 5\d min .*?its timeout, at the latest", asked), (
        asked
    )
    assert re.search(r"Compute cpu 1 of 1 node: none left Holds .*? 1 node first", limits), limits
    assert re.search(r"Each user You hold 1 of 5 jobs: 4 left", limits)
    thought = busy.get("reader", "quotas?compute=cpu&nodes=1")
    assert "Does not fit 1 × Standard_DS2_v2 on cpu." in thought.text
    assert "You hold 0 of 5 jobs" in thought.text
    poll = busy.get("reader", "quotas?seen=x", hx_request="true")
    assert "Would it start?" not in poll.text
    assert "Compute cpu" in poll.text
    for query, said in (
        ("job=none", "none"),
        ("size=Standard_Nothing", "Standard_Nothing"),
        ("compute=cpu&nodes=0", "it must be a whole number, at least 1"),
        ("compute=" + quote(EVIL), "was not found"),
    ):
        answer = busy.get("owner", f"quotas?{query}")
        assert answer.status == 200
        assert said in answer.text
        assert EVIL not in answer.html
    waiting = busy.get("reader", "jobs/second")
    assert f"{busy.base}/quotas?job=second#ask" in waiting.html


def test_the_doctor_says_what_the_command_says(busy: House) -> None:
    page = busy.get("reader", "doctor")
    assert page.status == 200
    told = busy.cli("doctor")
    assert f"Isolation of a node opened here {told['isolation']} as tried" in page.text
    rows = re.findall(r'data-label="State">(.*?)</td>.*?data-label="What">(.*?)</td>', page.html, re.S)
    shown = [tuple(Reply(200, page.headers, cell).text for cell in row) for row in rows]
    assert shown == [(check["state"], check["name"]) for check in told["checks"]]
    assert re.search(r"Nodes of this workspace now cpu-\w+ " + told["isolation"], page.text)
    assert re.search(r"The home blobs [\d.]+ \w+, databases [\d.]+ \w+, .*free on its disk", page.text)
    denied = busy.get("stranger", "doctor")
    assert denied.status == 403
    assert "workspaces/computes/read" in denied.text


def test_jobs_and_computes_show_their_isolation(busy: House) -> None:
    level = busy.cli("doctor")["isolation"]
    job = busy.get("reader", "jobs/first")
    assert re.search(rf"Isolation {level} [✓✗] \w+", job.text)
    assert "Isolation known once it has a node" in busy.get("reader", "jobs/second").text
    assert f"Isolation: {level} " in busy.get("reader", "computes/cpu").text


def test_what_a_plain_host_lacks_is_said_with_the_way_to_get_it(tmp_path: Path) -> None:
    server = JobServer(tmp_path / "home", isolation="plain")
    server.start()
    try:
        house = House(server)
        page = house.get("owner", "doctor")
        assert "Isolation of a node opened here plain" in page.text
        assert re.search(r"not reached full : lacks files, namespaces, syscalls", page.text)
        assert "reached plain" in page.text
        assert re.search(r"missing files .*? namespaces", page.text)
        assert "Nodes of this workspace now None is open." in page.text
        asked = {"location": "eastus", "tags": {"tidemill.isolation": "plain"}}
        asked["properties"] = {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_DS2_v2"}}
        assert server.arm("PUT", "computes/careful", asked)[0] in (200, 201)
        assert "Isolation plain is required of its jobs." in house.get("owner", "computes/careful").text
    finally:
        server.end()


@pytest.mark.parametrize(
    "page",
    [
        "access",
        "access?action=jobs/write&who=ann",
        "access/grant?to=ann&role=Reader",
        "activity",
        "queue",
        "quotas",
    ],
)
def test_pages_hold_nothing_inline(house: House, page: str) -> None:
    answer = house.get("owner", page)
    assert answer.status == 200
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"<[^>]+\s(style|on[a-z]+)=", answer.html)
    assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", answer.html))
    ids = re.findall(r'\sid="([^"]+)"', answer.html)
    assert len(ids) == len(set(ids))
