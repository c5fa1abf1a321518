"""The pages in a real browser: what JavaScript and CSS do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pidspace

pytestmark = pytest.mark.browser

JOB = """\
type: command
experiment_name: browser
command: |
  {command}
environment:
  image: mcr.microsoft.com/azureml/minimal
compute: azureml:cpu-cluster
"""
# Sixty lines at once, then one for each file 0, 1, … that appears in its folder, and the end with `stop`.
STEADY = (
    f"{pidspace.SAYS}; for i in $(seq 60); do echo line $i; done; n=0; while [ ! -e stop ]; do "
    "if [ -e $n ]; then echo more $n; n=$((n+1)); fi; sleep 0.05; done; echo last"
)

OWN_LOG = "#log-panes pre[aria-label^=user_logs]"


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[Any]:
    """A signed-in page on the list of jobs; the test fails for an error in its console."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(tidemill(server, "portal", "--no-browser").strip())
    yield page
    context.close()
    assert problems == []


def tidemill(server: Any, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), *args],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(server: Any, folder: Path, name: str, command: str) -> None:
    path = folder / f"{name}.yml"
    path.write_text(JOB.format(command=command))
    size = ("--size", "Standard_D2s_v3", "--max-instances", "1")
    tidemill(server, "compute", "create", "--name", "cpu-cluster", *size)
    tidemill(server, "job", "create", "--file", str(path), "--name", name)


def until(holds: Callable[[], Any]) -> None:
    """Playwright's own wait_for_function needs eval, which the pages' policy forbids."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_log_is_followed_until_the_reader_scrolls_up(page: Any, server: Any, tmp_path: Path) -> None:
    submit(server, tmp_path, "steady", STEADY)
    page.goto(page.url + "/steady")
    log = page.locator(OWN_LOG)
    follow = page.locator("#log-follow")

    def below() -> float:
        return log.evaluate("p => p.scrollHeight - p.clientHeight - p.scrollTop")

    log.wait_for()
    until(lambda: log.text_content().endswith("line 60\n") and below() < 5)
    folder = Path(f"/proc/{pidspace.said(log.text_content())}/cwd")  # the job's own: it sees no other of ours
    assert log.evaluate("p => p.scrollHeight > p.clientHeight")
    assert follow.is_hidden()

    log.evaluate("p => { p.scrollTop = 0; }")
    follow.wait_for()
    (folder / "0").touch()
    until(lambda: log.text_content().endswith("more 0\n"))
    assert log.evaluate("p => p.scrollTop") == 0

    follow.click()
    (folder / "1").touch()
    until(lambda: log.text_content().endswith("more 1\n") and below() < 5)
    assert follow.is_hidden()

    (folder / "stop").touch()
    page.locator("#top .badge.completed").wait_for()
    until(lambda: "(Completed)" in page.title())  # by the log's stream, as its last lines
    until(lambda: log.text_content().endswith("last\n"))
    lines = [f"line {i}" for i in range(1, 61)] + ["more 0", "more 1", "last"]
    assert log.text_content().splitlines()[1:] == lines  # each once, in order
    assert page.locator("#top[hx-trigger]").count() == 0


def test_the_list_shows_a_new_job_by_itself_and_searches(page: Any, server: Any, tmp_path: Path) -> None:
    submit(server, tmp_path, "newcomer", "echo '<script>document.title = 1</script>'")
    page.locator("#job-newcomer").wait_for()
    page.locator("tr:has(#job-newcomer) .badge.completed").wait_for()
    page.locator("#q").fill("nothing-like-it")
    page.get_by_text("Nothing matches").wait_for()
    page.locator("#q").fill("newc")
    page.locator("#job-newcomer").wait_for()
    until(lambda: "q=newc" in page.url)
    page.locator("#job-newcomer").focus()
    submit(server, tmp_path, "newcomer-2", "true")
    page.locator("#job-newcomer-2").wait_for()  # by a refresh, which must not take the focus away
    assert page.evaluate("document.activeElement.id") == "job-newcomer"
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/newcomer")
    assert "(Completed)" in page.title()
    assert page.locator(OWN_LOG).text_content() == "<script>document.title = 1</script>\n"


def test_nothing_is_wider_than_a_telephone(page: Any, server: Any, tmp_path: Path) -> None:
    submit(server, tmp_path, "wide", "echo " + "x" * 3000 + "; exit 3")
    start = page.url
    page.set_viewport_size({"width": 400, "height": 800})
    page.locator("tr:has(#job-wide) .badge.failed").wait_for()
    pages = (
        "computes",
        "computes/cpu-cluster",
        "schedules",
        "queue",
        "quotas",
        "access?action=jobs/write",
        "activity",
        "doctor",
    )
    for path in ("", "/wide", *(f"/../{page}" for page in pages)):
        page.goto(start + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path
        heights = page.locator("nav[aria-label=Workspace] a").evaluate_all(
            "links => links.map(link => link.getBoundingClientRect().height)"
        )
        assert max(heights) < 40, "each section's name on one line"


def test_what_mlflow_prints_leads_to_the_job(page: Any, server: Any, tmp_path: Path) -> None:
    submit(server, tmp_path, "tracked", "true")
    ui = page.url.split("/ui/")
    sub, group, workspace = ui[1].split("/")[:3]
    provider = "providers/Microsoft.MachineLearningServices"
    arm = f"/subscriptions/{sub}/resourceGroups/{group}/{provider}/workspaces/{workspace}"
    page.goto(f"{ui[0]}/mlflow/v2.0{arm}/#/experiments/0/runs/tracked")
    page.wait_for_url("**/jobs/tracked")
    page.goto(f"{ui[0]}/mlflow/v2.0{arm}/#/experiments/0")
    page.wait_for_url("**/jobs?q=Default")


def test_a_role_is_given_by_keyboard_explained_and_recorded(page: Any, server: Any, tmp_path: Path) -> None:
    tidemill(server, "access", "create-user", "ann@example.org", "--display-name", "Ann Lee")
    page.get_by_role("link", name="People", exact=True).click()
    page.get_by_label("Who", exact=True).fill("ann@example.org")
    page.get_by_label("May do", exact=True).fill("jobs/write")
    page.get_by_label("May do", exact=True).press("Enter")
    verdict = page.locator("#explained .verdict")
    verdict.wait_for()
    assert verdict.inner_text().startswith("No ann@example.org may not jobs/write at workspace main")
    assert "AzureML Data Scientist" in page.locator("#explained").inner_text()  # would allow it
    until(lambda: "action=jobs%2Fwrite" in page.url)
    assert page.evaluate("document.activeElement.name") == "action"  # the focus stays where it was

    page.get_by_label("To whom").fill("ann@example.org")
    page.get_by_label("Role", exact=True).fill("AzureML Data Scientist")
    page.get_by_label("Role", exact=True).press("Enter")
    page.get_by_role("heading", name="Give this role?").wait_for()
    page.get_by_text("What it allows").click()
    page.get_by_text("Microsoft.MachineLearningServices/workspaces/*/write", exact=True).wait_for()
    page.get_by_role("button", name="Give the role").press("Enter")
    page.get_by_text("The role is given").wait_for()
    page.get_by_role("link", name="ann@example.org", exact=True).click()
    page.locator("#explained .badge.completed").first.wait_for()
    assert "AzureML Data Scientist" in page.locator("#explained .decides").inner_text()
    page.screenshot(path=tmp_path / "access.png", full_page=True)

    page.get_by_role("link", name="Activity").click()
    page.get_by_label("What", exact=True).fill("roleAssignments/write")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**what=roleAssignments*")
    record = page.locator("tbody tr")
    until(lambda: record.count() == 1)
    assert "assignments/" in record.inner_text()
    page.get_by_role("button", name="Check every record").click()
    page.get_by_text("records hold").wait_for()
    page.screenshot(path=tmp_path / "activity.png", full_page=True)
