"""The pages as a browser gets them: content, access, and nothing that a value could break out of."""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tidemill.cli.main import run
from tidemill.cli.session import Given, Session

EVIL = "<script>alert(1)</script>"
JOB = """\
type: command
display_name: "{display}"
experiment_name: portal
command: {command}
environment:
  image: mcr.microsoft.com/azureml/minimal
compute: azureml:{compute}
"""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    text: str


class Portal:
    """A browser without a screen, on the loopback listener."""

    def __init__(self, server, scratch: Path) -> None:
        self.server = server
        self.scratch = scratch
        self.session = Session(Given(home=str(server.home)))
        self.address = server.state["addresses"]["http"]
        where = server.state["workspace"]
        self.base = f"/ui/{where['subscription']}/{where['group']}/{where['name']}"
        self.cookie = ""

    def get(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Reply:
        """Header names with _ for -; the session's cookie unless another is given."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent.setdefault("cookie", self.cookie)
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=20)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()

    def link(self, after: str = "") -> str:
        answer = self.session.client.call(
            "POST", "/api/v1/portal/link", {"next": after or self.base + "/jobs"}
        )
        assert answer["url"].startswith(self.address + "/ui/login?")
        return answer["url"].removeprefix(self.address)

    def sign_in(self) -> None:
        answer = self.get(self.link())
        assert (answer.status, answer.headers["location"]) == (303, self.base + "/jobs")
        self.cookie = answer.headers["set-cookie"].split(";")[0]

    def tidemill(self, *args: str) -> None:
        assert run(["--home", str(self.server.home), *args]) == 0

    def submit(self, name: str, command: str, display: str, compute: str = "cpu-cluster") -> None:
        path = self.scratch / f"{name}.yml"
        path.write_text(JOB.format(command=command, display=display, compute=compute))
        self.tidemill("job", "create", "--file", str(path), "--name", name)

    def wait(self, name: str, states: tuple[str, ...]) -> None:
        deadline = time.monotonic() + 60
        while True:
            job = self.session.client.get(f"{self.session.native}/jobs/{name}")
            if job["status"] in states:
                return
            assert time.monotonic() < deadline, job
            time.sleep(0.05)


@pytest.fixture(scope="module")
def portal(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    portal = Portal(server, tmp_path_factory.mktemp("jobs"))
    size = ("--size", "Standard_D2s_v3", "--max-instances", "2")
    portal.tidemill("compute", "create", "--name", "cpu-cluster", *size)
    portal.submit("broken", "python3 -c \"raise ValueError('no digits here')\"", f"fails {EVIL}")
    portal.submit("steady", f"echo '{EVIL}'; sleep 3600", "steady")
    portal.wait("broken", ("Failed",))
    portal.wait("steady", ("Running",))
    portal.sign_in()
    yield portal
    portal.tidemill("job", "cancel", "--name", "steady")


def test_without_a_session_a_page_says_how_to_sign_in(portal: Portal) -> None:
    for path in ("/ui", portal.base + "/jobs", portal.base + "/jobs/steady", portal.base + "/computes"):
        answer = portal.get(path, cookie="")
        assert answer.status == 401
        assert answer.headers["content-type"].startswith("text/html")
        assert "<code>tidemill portal</code>" in answer.text
        assert "steady" not in answer.text
        assert "cpu-cluster" not in answer.text
    assert portal.get(portal.base + "/jobs", cookie="tidemill_session=a.b.c").status == 401


def test_a_link_opens_one_session(portal: Portal) -> None:
    link = portal.link()
    first = portal.get(link, cookie="")
    assert first.status == 303
    given = [part.strip().lower() for part in first.headers["set-cookie"].split(";")]
    assert {"httponly", "samesite=lax", "path=/"} <= set(given)
    assert "secure" not in given  # plain http on loopback
    again = portal.get(link, cookie="")
    assert again.status == 401
    assert "used already" in again.text
    assert "set-cookie" not in again.headers
    assert portal.get(link).status == 303  # a browser that is signed in goes on to the page


def test_over_https_the_cookie_is_for_https_only(portal: Portal) -> None:
    context = ssl.create_default_context(cafile=portal.server.home / "tls" / "ca.pem")
    netloc = urlsplit(portal.server.state["addresses"]["https"]).netloc
    connection = http.client.HTTPSConnection(netloc, context=context, timeout=20)
    connection.request("GET", portal.link())
    answer = connection.getresponse()
    connection.close()
    assert answer.status == 303
    assert "; secure" in answer.headers["set-cookie"].lower()


def test_links_are_for_the_owner_and_cannot_be_changed(portal: Portal) -> None:
    assert portal.get("/api/v1/portal/link", "POST", "{}", cookie="").status == 401
    # The cookie alone changes nothing: a page of another origin could be asking.
    assert portal.get("/api/v1/portal/link", "POST", "{}").status == 401
    assert portal.get("/api/v1/portal/link", "POST", "{}", origin="http://evil.example").status == 401
    assert portal.get("/api/v1/portal/link", "POST", "{}", origin=portal.address).status == 200
    link = portal.link()
    token = re.search(r"token=([^&]+)", link)[1]  # type: ignore[index]
    later = re.sub(r"se=(\d+)", lambda m: f"se={int(m[1]) + 9999}", link)
    for changed in (link.replace(token, token[::-1]), later, "/ui/login", "/ui/login?token=&se=&sig="):
        answer = portal.get(changed, cookie="")
        assert answer.status == 401
        assert "set-cookie" not in answer.headers
    away = re.sub(r"next=[^&]+", "next=" + quote("//evil.example/ui", safe=""), link)
    assert portal.get(away, cookie="").status == 400
    refused = portal.get(
        "/api/v1/portal/link", "POST", '{"next": "https://evil.example"}', origin=portal.address
    )
    assert refused.status == 400


def test_another_name_for_this_machine_is_refused(portal: Portal) -> None:
    for path in (portal.base + "/jobs", "/api/v1/status", "/UI", "/ui/static/app.css"):
        assert portal.get(path, host="rebound.example:8440").status == 421
    assert portal.get("/api/v1/status", host="localhost:1").status == 200


def test_jobs(portal: Portal) -> None:
    page = portal.get(portal.base + "/jobs")
    assert page.status == 200
    assert "<title>Jobs of main · Tidemill</title>" in page.text
    assert "fails &lt;script&gt;" in page.text
    assert "ValueError: no digits here" in page.text
    assert 'badge running">Running' in page.text
    assert re.search(r"\$0\.\d+", page.text)
    failed = portal.get(portal.base + "/jobs?state=failed")
    assert "jobs/broken" in failed.text
    assert "jobs/steady" not in failed.text
    named = portal.get(portal.base + "/jobs?q=STEA")
    assert "jobs/steady" in named.text
    assert "jobs/broken" not in named.text
    nothing = portal.get(portal.base + "/jobs?q=" + quote('"><b>'))
    assert "Nothing matches" in nothing.text
    assert '"><b>' not in nothing.text


def test_a_fragment_is_sent_only_when_it_is_new(portal: Portal) -> None:
    page = portal.get(portal.base + "/jobs?state=failed")
    poll = re.search(r'hx-get="([^"]+seen=[^"]+)"', page.text)[1].replace("&amp;", "&")  # type: ignore[index]
    fragment = portal.get(poll.replace("seen=", "seen=x"), hx_request="true")
    assert fragment.status == 200
    assert fragment.text.lstrip().startswith('<div id="jobs"')
    # "4 s ago" moves on: ask for what was just sent until both fall into the same second
    deadline = time.monotonic() + 90
    while (latest := portal.get(poll, hx_request="true")).status != 204:
        assert time.monotonic() < deadline, latest.text
        poll = re.search(r'hx-get="([^"]+)"', latest.text)[1].replace("&amp;", "&")  # type: ignore[index]


def test_a_failed_job(portal: Portal) -> None:
    page = portal.get(portal.base + "/jobs/broken")
    assert page.status == 200
    assert "(Failed) · Tidemill</title>" in page.text
    assert "Traceback (most recent call last)" in page.text
    assert "<dt>Exit code</dt><dd>1<" in page.text
    assert "list price" in page.text
    assert '<rect class="phase run"' in page.text
    assert "Submitted by" in page.text
    assert 'data-final="true"' in page.text
    assert "hx-trigger" not in page.text  # nothing to wait for


def test_a_running_job_and_its_stream(portal: Portal) -> None:
    page = portal.get(portal.base + "/jobs/steady")
    assert "Run rate" in page.text
    assert "$0.096/h" in page.text
    assert 'class="phase run open"' in page.text
    top = portal.get(portal.base + "/jobs/steady?seen=x", hx_request="true")
    assert top.text.lstrip().startswith('<div id="top"')
    assert 'hx-swap-oob="true"' in top.text
    seen = re.search(r"seen=([0-9a-f]{16})", page.text)[1]  # type: ignore[index]
    same = portal.get(f"{portal.base}/jobs/steady?seen={seen}", hx_request="true")
    assert "hx-swap-oob" not in same.text
    stream = re.search(r'data-stream="([^"]+)"', page.text)[1]  # type: ignore[index]
    connection = http.client.HTTPConnection(urlsplit(portal.address).netloc, timeout=20)
    connection.request("GET", stream, headers={"cookie": portal.cookie})
    answer = connection.getresponse()
    lines: list[str] = []
    while not any("alert(1)" in line for line in lines):
        lines.append(answer.readline().decode())
        assert lines[-1], lines
    connection.close()
    assert "event: log\n" in lines


def test_computes(portal: Portal) -> None:
    listed = portal.get(portal.base + "/computes")
    assert "Standard_D2s_v3, $0.096/h a node" in listed.text
    page = portal.get(portal.base + "/computes/cpu-cluster")
    assert 'href="' + portal.base + '/jobs/steady"' in page.text
    assert "Share of this host:" in page.text
    assert re.search(r'<li class="(yes|no)" title="[^"]+">. memory', page.text)
    assert "NodeOpening" in page.text


def test_schedules(portal: Portal) -> None:
    listed = portal.get(portal.base + "/schedules")
    assert "No schedules yet" in listed.text
    where = portal.session.workspace_id() + "/schedules/nightly"
    job = {"jobType": "Command", "command": "echo <b>night</b>"}
    properties = {
        "trigger": {"triggerType": "Cron", "expression": "0 2 * * *", "timeZone": "Asia/Tokyo"},
        "action": {"actionType": "CreateJob", "jobDefinition": job},
    }
    query = {"api-version": "2023-06-01-preview"}
    portal.session.client.begin("PUT", where, {"properties": properties}, dict(query))
    page = portal.get(portal.base + "/schedules")
    assert f'href="{portal.base}/schedules/nightly"' in page.text
    assert "0 2 * * *, Asia/Tokyo" in page.text
    page = portal.get(portal.base + "/schedules/nightly")
    assert "echo &lt;b&gt;night&lt;/b&gt;" in page.text
    assert page.text.count("02:00:00 <span") == 5
    assert "<strong>Created</strong>" in page.text
    properties["isEnabled"] = False
    portal.session.client.begin("PUT", where, {"properties": properties}, dict(query))
    page = portal.get(portal.base + "/schedules/nightly")
    assert "tidemill schedule enable --name nightly" in page.text
    assert portal.get(portal.base + "/schedules/none").status == 404


def test_pages_hold_nothing_inline(portal: Portal) -> None:
    for path in ("/jobs", "/jobs/broken", "/jobs/steady", "/computes", "/computes/cpu-cluster"):
        page = portal.get(portal.base + path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert EVIL not in page.text
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", page.text))
        assert not re.search(r"<[^>]+\s(style|on[a-z]+)=", page.text)
        for address in re.findall(r'(?:src|href)="(/ui/static/[^"]+)"', page.text):
            assert portal.get(address, cookie="").status == 200


def test_what_is_not_there(portal: Portal) -> None:
    missing = portal.get(portal.base + "/jobs/nobody")
    assert missing.status == 404
    assert "nobody" in missing.text
    assert missing.headers["content-type"].startswith("text/html")
    assert portal.get(portal.base.replace("/main", "/mian") + "/jobs").status == 404
    assert portal.get("/ui/static/..%2Fpages.py").status == 404
    assert portal.get("/ui/nothing/here").status == 404


def test_the_first_page_leads_to_the_jobs(portal: Portal) -> None:
    answer = portal.get("/ui")
    assert (answer.status, answer.headers["location"]) == (303, portal.base + "/jobs")


def test_an_empty_workspace_says_what_to_type(portal: Portal) -> None:
    portal.tidemill("workspace", "create", "--name", "quiet")
    base = portal.base.rsplit("/", 1)[0] + "/quiet"
    jobs = portal.get(base + "/jobs")
    assert "No jobs yet" in jobs.text
    assert "tidemill job create --file job.yml --stream -w quiet" in jobs.text
    assert f'href="{portal.base}/jobs"' in jobs.text  # the way to the other workspace
    assert "tidemill compute create" in portal.get(base + "/computes").text


def test_the_command_prints_a_link(portal: Portal, capsys: pytest.CaptureFixture[str]) -> None:
    portal.tidemill("portal", "--job", "steady", "--no-browser")
    link = capsys.readouterr().out.strip().removeprefix(portal.address)
    answer = portal.get(link, cookie="")
    assert (answer.status, answer.headers["location"]) == (303, portal.base + "/jobs/steady")


def log_run(portal: Portal, arm: str, points: int) -> str:
    """-> the id of a run of its own with a curve."""
    api = f"/mlflow/v2.0{arm}/api/2.0/mlflow"

    call = portal.session.client.call
    made = call("POST", f"{api}/runs/create", {"experiment_id": "0", "run_name": "alone"})
    run = made["run"]["info"]["run_id"]
    metrics = [{"key": "loss", "value": 1 / (i + 1), "timestamp": i, "step": i} for i in range(points)]
    metrics += [{"key": "odd", "value": "NaN", "timestamp": 1}]
    params = [{"key": "rate", "value": "<b>0.1</b>"}]
    call("POST", f"{api}/runs/log-batch", {"run_id": run, "metrics": metrics, "params": params})
    return run


def test_metrics_are_drawn_and_runs_compared(portal: Portal) -> None:
    sub, group, name = portal.base.split("/")[2:]
    provider = "providers/Microsoft.MachineLearningServices"
    arm = f"/subscriptions/{sub}/resourceGroups/{group}/{provider}/workspaces/{name}"
    first, second = log_run(portal, arm, 5), log_run(portal, arm, 900)
    page = portal.get(f"{portal.base}/runs?run={first}&run={second}")
    assert page.status == 200
    curves = re.findall(r'<path class="hue-(\d)" d="M([^"]*)"', page.text)
    assert [hue for hue, _ in curves] == ["0", "1"]
    assert len(curves[0][1].split("L")) == 5
    assert 100 < len(curves[1][1].split("L")) <= 300  # thinned out
    assert "No value of it is a number" in page.text
    assert "&lt;b&gt;0.1&lt;/b&gt;" in page.text
    live = re.search(r'hx-get="([^"]*)"', page.text)
    assert live is not None
    again = live[1].replace("&amp;", "&")
    assert portal.get(again, hx_request="true").status == 204  # nothing new
    assert portal.get(f"{portal.base}/runs").status == 400
    assert portal.get(f"{portal.base}/runs?run={first}&run=nothing").status == 404
    assert portal.get(f"{portal.base}/runs?" + "&".join(f"run={i}" for i in range(9))).status == 400


def test_addresses_of_mlflows_pages_lead_to_the_job(portal: Portal) -> None:
    sub, group, name = portal.base.split("/")[2:]
    provider = "providers/Microsoft.MachineLearningServices"
    arm = f"/subscriptions/{sub}/resourceGroups/{group}/{provider}/workspaces/{name}"
    answer = portal.get(f"/mlflow/v2.0{arm}/", cookie="")
    place = urlsplit(answer.headers["location"]).path
    assert (answer.status, place) == (307, portal.base + "/mlflow")
    page = portal.get(place, cookie="")  # what stands behind the '#' is read by a script of the page
    assert page.status == 200
    assert "/ui/static/forward.js" in page.text
    assert f'href="{portal.base}/jobs"' in page.text
    run = portal.get(portal.base + "/runs/broken")
    assert (run.status, run.headers["location"]) == (303, portal.base + "/jobs/broken")
    assert portal.get(portal.base + "/runs/nothing").status == 404
    alone = log_run(portal, arm, 20)
    found = portal.get(f"{portal.base}/runs/{alone}")
    assert (found.status, found.headers["location"]) == (303, f"{portal.base}/runs?run={alone}")
    experiment = portal.get(portal.base + "/experiments/0")
    assert (experiment.status, experiment.headers["location"]) == (303, portal.base + "/jobs?q=Default")
    assert portal.get(portal.base + "/runs/broken", cookie="").status in (302, 303, 401)


PIPELINE = """\
type: pipeline
display_name: "two steps {evil}"
jobs:
  first:
    command: echo x > ${{{{outputs.o}}}}/x
    environment: {{image: mcr.microsoft.com/azureml/minimal}}
    outputs: {{o: {{type: uri_folder}}}}
  second:
    command: ls ${{{{inputs.d}}}}
    environment: {{image: mcr.microsoft.com/azureml/minimal}}
    inputs: {{d: "${{{{parent.jobs.first.outputs.o}}}}"}}
settings: {{default_compute: local}}
"""


def test_a_pipelines_page_has_its_graph_and_says_what_was_reused(portal: Portal) -> None:
    path = portal.scratch / "pipeline.yml"
    path.write_text(PIPELINE.format(evil=EVIL))
    for name in ("pipes-1", "pipes-2"):
        portal.tidemill("job", "create", "--file", str(path), "--name", name)
        portal.wait(name, ("Completed",))
    first = portal.session.client.get(f"{portal.session.native}/jobs/pipes-1")
    page = portal.get(f"{portal.base}/jobs/pipes-1").text
    assert "<svg xmlns=" in page
    assert EVIL not in page
    assert re.search(r"first: command · Completed", page)
    child = first["steps"][0]["jobs"][0]["name"]
    assert f"{portal.base}/jobs/{child}" in page
    assert f'of <a href="{portal.base}/jobs/pipes-1">' in portal.get(f"{portal.base}/jobs/{child}").text
    again = portal.get(f"{portal.base}/jobs/pipes-2").text
    assert "Reused" in again
    assert f'results of <a href="{portal.base}/jobs/{child}">' in again
    jobs = portal.get(f"{portal.base}/jobs").text
    assert "pipes-1" in jobs
    assert child not in jobs
    assert "style=" not in page


def test_a_job_without_a_compute_whose_node_stays_for_a_look(portal: Portal) -> None:
    path = portal.scratch / "alone.yml"
    path.write_text("command: exit 3\nenvironment: {image: 'python:3.11'}\n")
    portal.tidemill("job", "create", "-f", str(path), "-n", "alone", "--keep-on-failure", "20m")
    portal.wait("alone", ("Failed",))
    page = portal.get(portal.base + "/jobs/alone")
    assert "serverless<small>nodes of Standard_DS3_v2 for it alone</small>" in page.text
    assert "computes/serverless" not in page.text  # there is no such page
    assert re.search(r"serverless-[0-9a-f]{6} stays for (20|19) min", page.text)
    assert "tidemill job release --name alone" in page.text
    assert "hx-trigger" in page.text  # it counts down
    assert "serverless" in portal.get(portal.base + "/jobs").text
    doctor = portal.get(portal.base + "/doctor")
    assert (doctor.status, "of serverless, running" in doctor.text) == (200, True)
    assert "serverless" not in portal.get(portal.base + "/computes").text
    portal.tidemill("job", "release", "-n", "alone")
    again = portal.get(portal.base + "/jobs/alone")
    assert "stays for" not in again.text.split('id="top"')[1].split("</section>")[0]
