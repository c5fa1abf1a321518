"""The tasks of one node: started once per epoch, stopped by a timetable, told about only when proved gone.

Single-threaded and driven from outside: verbs, `reaped` (a child died) and `tick` (time passed). Times
inside are CLOCK_BOOTTIME seconds; what goes out is microseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import OrderedDict

from tidemill.agent import boxed, contained, restarts, spawn
from tidemill.agent.clock import boot, micro, wall
from tidemill.agent.files import tail_beneath
from tidemill.agent.journal import Journal, TaskId
from tidemill.agent.probes import Probes
from tidemill.agent.refused import Refused
from tidemill.agent.sessions import Sessions
from tidemill.agent.starts import Starts
from tidemill.agent.task import Task
from tidemill.sandbox import cgroups, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tidemill.agent.place import Place
    from tidemill.agent.probe import Probe

REMEMBERED = 1024  # forgotten tasks whose epoch is still refused
TOLD_AGAIN = 20  # ends of a service, to a client that comes later
PATIENCE_S = 60.0  # with a runc that makes a container


class Tasks:
    def __init__(self, place: Place, journal: Journal, push: Callable[[dict[str, Any]], None]) -> None:
        self._place = place
        self._journal = journal
        self._push = push
        self._tasks: dict[TaskId, Task] = {}
        self._forgotten: OrderedDict[TaskId, int] = OrderedDict()
        self._seq = 0
        self._early: dict[int, int] = {}  # statuses of nobody's children, while runc makes some
        self.starts = Starts(place)
        self.memory = place.memory
        self.sessions = Sessions(place)
        self.probes = Probes(self.sessions.dial, self._probed)

    # --- verbs

    def running(self, attempt: str, rank: int) -> Task:
        """Raises Refused."""
        task = self._tasks.get((attempt, rank))
        if task is None or task.state != "running" or not task.main:
            if task is not None and task.starting:
                raise Refused("starting", "the job's container is just being made: try again")
            raise Refused("gone", f"{attempt}/{rank} does not run on this node")
        return task

    def check_start(self, spec: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a start that was carried out before; None if it is to be carried out now."""
        key = (str(spec["attempt"]), int(spec["rank"]))
        epoch = int(spec["epoch"])
        known = self._tasks.get(key)
        newest = known.epoch if known else self._forgotten.get(key, -1)
        if epoch < newest or (known is None and epoch == newest):
            raise Refused(
                "stale", f"{key[0]}/{key[1]}: epoch {epoch} was started or overtaken before ({newest})"
            )
        if known is None:
            return None
        if epoch == known.epoch:
            return {"state": known.state}
        if known.state != "exited":
            raise Refused("busy", f"{key[0]}/{key[1]}: epoch {known.epoch} still has processes")
        return None

    def intend(self, spec: dict[str, Any]) -> tuple[Task, int]:
        """Checks the task, opens its log and puts the intent on disk. Returns it and the log's descriptor."""
        if not spec["argv"]:
            raise Refused("invalid", "argv is empty: there is nothing to run")
        if spec.get("rootfs") and not self._place.box.made:
            why = self._place.box.why_not
            raise Refused("invalid", f"this node has no sandbox, so it runs nothing in an image: {why}")
        if spec.get("writable_at") and not self._place.box.made:
            why = self._place.box.why_not
            raise Refused("invalid", f"this node has no sandbox, so it shows no volumes: {why}")
        self._check_runtime(spec)
        again = restarts.of_service(spec.get("service"))
        log = self.starts.open_log(spec["log_path"])
        task = Task(
            str(spec["attempt"]), int(spec["rank"]), int(spec["epoch"]), grace=float(spec["term_grace_s"])
        )
        task.log, task.cwd = str(spec["log_path"]), str(spec["cwd"])
        task.program = str(spec["argv"][0])
        if again is not None:
            task.restarts, task.spec = again, spec
        task.marker = f"{self._place.marker}{task.attempt}/{task.rank}"
        record = {"attempt": task.attempt, "rank": task.rank, "epoch": task.epoch, "at": wall()}
        try:
            self._journal.write("intent", record)
        except OSError as error:
            os.close(log)
            raise Refused("full", f"the intent to start cannot be put on disk: {error.strerror}") from None
        self._tasks[task.attempt, task.rank] = task
        return task, log

    def _check_runtime(self, spec: dict[str, Any]) -> None:
        runtime = spec.get("runtime") or ""
        if runtime not in ("", contained.NAME):
            raise Refused("invalid", f"this agent knows no runtime {runtime!r}")
        if runtime and self._place.runc.why_not:
            raise Refused("invalid", f"this node runs no containers by runc: {self._place.runc.why_not}")
        if runtime and spec.get("devices"):
            raise Refused("invalid", "a container of runc is given no GPUs")

    def launch(self, task: Task, spec: dict[str, Any], log: int) -> None:
        """Spawns. Failures come as an exit with reason "spawn_failed"."""
        others = [t for t in self._tasks.values() if t.state != "exited" and t is not task]
        task.alone = not others
        for other in others:
            other.alone = False
        try:
            self.starts.start(task, spec, log)
        except OSError as error:
            what = str(error) if isinstance(error, spawn.Failed) else f"could not start a process: {error}"
            task.reason, task.message = "spawn_failed", what
            if task.group:
                cgroups.remove(task.group)
            self.starts.cleared(task)
            return self._finish(task)
        task.timeout = float(spec["timeout_s"]) if spec["timeout_s"] is not None else None
        if task.starting:
            task.timeout_at = boot() + PATIENCE_S
        else:
            self._started(task)

    def _started(self, task: Task) -> None:
        task.timeout_at = boot() + task.timeout if task.timeout is not None else None
        told: dict[str, Any] = {"pid": task.main}
        if task.restarts is not None:
            self.probes.begin(task, task.spec["service"]["probes"])
            told["restarts"] = task.restarts.count
        self._tell(task, "task_started", told)

    def stop(self, attempt: str, rank: int, epoch: int, why: str) -> None:
        """TERM now, KILL after the task's grace. What never started is recorded as stopped, and never
        will."""
        task = self._tasks.get((attempt, rank))
        newest = task.epoch if task else self._forgotten.get((attempt, rank), -1)
        if epoch < newest or (task is None and epoch == newest):
            return
        if task is None or (epoch > task.epoch and task.state == "exited"):
            task = Task(attempt, rank, epoch)
            task.reason, task.message = "stopped", why
            self._tasks[attempt, rank] = task
            self._finish(task)
        elif task.restarts is not None and task.state != "exited":
            self._stop_service(task, why)
        elif task.state == "running" and task.kill_at is None:
            task.reason, task.message = "stopped", why
            self._terminate(task)

    def park(self) -> None:
        """The services that run here stand still from now on. Raises Refused where that cannot be: then
        nothing does."""
        live = [task for task in self._tasks.values() if task.state != "exited"]
        for task in live:
            if task.restarts is None or task.state != "running" or task.kill_at is not None:
                raise Refused("busy", f"{task.attempt}/{task.rank} is no service that runs")
        for task in live:
            why = cgroups.freeze(task.group, True) if task.group else "it has no control group"
            if why:
                self.wake()
                raise Refused("unsupported", f"{task.attempt}/{task.rank} cannot be frozen: {why}")
            task.parked = True
            self.probes.end(task)
            task.events = [e for e in task.events if e["kind"] not in ("task_ready", "task_unready")]

    def wake(self) -> None:
        """They go on; each is ready once its probe has passed again."""
        for task in self._tasks.values():
            if task.parked:
                self._go_on(task)
                self.probes.begin(task, task.spec["service"]["probes"])

    def forget(self, attempt: str, rank: int) -> None:
        task = self._tasks.get((attempt, rank))
        if task is None:
            return
        if task.state != "exited":
            raise Refused("busy", f"{attempt}/{rank} still has processes: stop it and wait for its exit")
        del self._tasks[attempt, rank]
        self._forgotten[attempt, rank] = task.epoch
        if len(self._forgotten) > REMEMBERED:
            self._forgotten.popitem(last=False)
        with contextlib.suppress(OSError):  # a forget that is lost is repeated by nobody, and harms nobody
            self._journal.write("forget", {"attempt": attempt, "rank": rank}, sync=False)

    def status(self) -> list[dict[str, Any]]:
        return [
            {"attempt": t.attempt, "rank": t.rank, "epoch": t.epoch, "state": t.state, "pid": t.main}
            for t in self._tasks.values()
        ]

    def since(self, seq: int) -> list[dict[str, Any]]:
        """Events of tasks that are not forgotten, after `seq`, in order."""
        events = [e for t in self._tasks.values() for e in t.events if e["seq"] > seq]
        return sorted(events, key=lambda e: e["seq"])

    def records(self) -> list[tuple[str, dict[str, Any]]]:
        """The journal's content anew, for compaction."""
        made: list[tuple[str, dict[str, Any]]] = []
        for task in self._tasks.values():
            key = {"attempt": task.attempt, "rank": task.rank, "epoch": task.epoch}
            made.append(("exit", task.exit) if task.exit is not None else ("intent", key))
        return made

    def kill_all(self) -> None:
        for task in self._tasks.values():
            if task.restarts is not None and task.state in ("waiting", "ending"):
                self._stop_service(task, "its node was closed")
            task.restarts = None
            if task.state == "running":
                task.reason, task.message = task.reason or "stopped", task.message or "its node was closed"
                self._kill(task)

    def service_logs(self) -> list[str]:
        """Paths below the work directory."""
        start = len(self._place.work_path) + 1
        return [t.log[start:] for t in self._tasks.values() if t.restarts is not None]

    @property
    def busy(self) -> bool:
        return any(t.state != "exited" for t in self._tasks.values())

    @property
    def quiet(self) -> bool:
        """Nothing is about to be written down but what services do for ever."""
        return all(t.state == "exited" or t.restarts is not None for t in self._tasks.values())

    # --- what happens

    def reaped(self, pid: int, status: int) -> None:
        """A child was waited for. One that came to us as an orphan is what an ending task may wait for: the
        init of its sandbox goes last."""
        task = next((t for t in self._tasks.values() if t.pid == pid and t.state == "running"), None)
        if task is None:
            for ending in self._tasks.values():
                if ending.look_at is not None and ending.exit is None:
                    ending.look_at = 0.0
            if any(t.starting for t in self._tasks.values()):
                self._early[pid] = status
            return
        if task.starting:
            return self._made(task, status)
        task.state = "ending"
        if task.parked:  # who is parked is not started anew: nobody pays for that
            task.parked, task.restarts = False, None
            task.reason, task.message = "stopped", "its process ended while it was parked"
        self.probes.end(task)
        task.listen()
        task.status = status if task.group else task.said_by_shepherd("status", status)
        self._look(task)

    def _made(self, task: Task, status: int) -> None:
        """runc has made its container, or could not. A container may be waited for before the runc that made
        it: both are told at once."""
        made = self.starts.made(task, status, self.memory)
        early, self._early = self._early, self._early if any(t.starting for t in self._tasks.values()) else {}
        if not made:
            task.state = "ending"
            return self._look(task)
        self._started(task)
        if task.kill_at is not None:  # a stop that came meanwhile
            self._terminate(task)
        if task.pid in early:
            self.reaped(task.pid, early.pop(task.pid))

    def tick(self) -> float | None:
        """Does what is due; returns the seconds until the next thing is, None if nothing is planned."""
        now = boot()
        due: list[float] = []
        for task in [t for t in self._tasks.values() if t.state != "exited"]:
            if task.state == "waiting":
                if task.start_at is not None and task.start_at <= now:
                    self._start_again(task)
            elif task.state == "ending":
                if task.look_at is not None and task.look_at <= now:
                    self._look(task)
            elif task.kill_at is not None:
                if task.kill_at <= now:
                    self._kill(task)
            elif task.timeout_at is not None and task.timeout_at <= now and task.starting:
                task.reason, task.message = "spawn_failed", f"runc did not start it within {PATIENCE_S:g} s"
                self._kill(task)
            elif task.timeout_at is not None and task.timeout_at <= now:
                task.reason = "timeout"
                task.message = f"ran longer than its limit of {task.timeout:g} s"
                self._terminate(task)
            planned = {"ending": task.look_at, "waiting": task.start_at}.get(
                task.state, task.kill_at or task.timeout_at
            )
            if planned is not None and task.state != "exited":
                due.append(planned)
            if task.state == "running" and (looked := self.probes.tick(task, now)) is not None:
                due.append(looked)
        return max(0.0, min(due) - boot()) if due else None

    # --- services

    def _stop_service(self, task: Task, why: str) -> None:
        """For good, whatever it is doing."""
        if task.parked:
            self._go_on(task)  # to end by itself, as others do
        task.restarts, task.reason, task.message = None, "stopped", why
        if task.state == "waiting":
            task.begin()
            task.reason, task.message = "stopped", why
            self._finish(task)
        elif task.state == "running" and task.kill_at is None:
            self._terminate(task)

    def _go_on(self, task: Task) -> None:
        task.parked = False
        cgroups.freeze(task.group, False)

    def _start_again(self, task: Task) -> None:
        task.begin()
        try:
            log = self.starts.open_log(task.log)
        except Refused as error:
            task.reason, task.message = "spawn_failed", str(error)
            return self._finish(task)
        self.launch(task, task.spec, log)

    def _wait_to_start(self, task: Task, record: dict[str, Any], pause: float) -> None:
        assert task.restarts is not None
        record |= {"restarts": task.restarts.count, "again_in_s": pause}
        with contextlib.suppress(OSError):  # that the disk is full is no reason not to serve
            self._journal.write("restart", record)
        task.state, task.start_at = "waiting", boot() + pause
        # What it was before is past: only how it ended is worth telling again, and not without end.
        task.events = [e for e in task.events if e["kind"] == "task_restarting"][1 - TOLD_AGAIN :]
        self._tell(task, "task_restarting", record)

    def _probed(self, task: Task, name: str, probe: Probe) -> None:
        if name == "ready":
            task.events = [e for e in task.events if e["kind"] not in ("task_ready", "task_unready")]
            self._tell(task, "task_ready" if probe.passed else "task_unready", {"message": probe.why})
        elif not probe.passed and task.state == "running" and task.kill_at is None:
            task.reason, task.message = "unhealthy", f"its liveness probe failed: {probe.why}"
            self._terminate(task)

    def _terminate(self, task: Task) -> None:
        self.probes.end(task)
        task.kill_at = boot() + task.grace
        if task.starting:
            return  # runc would hear it: the container does, as soon as it is made
        if task.container:
            boxed.terminate(cgroups.processes(task.group), task.main, signal.SIGKILL)
        elif self._place.box.made:
            inside = cgroups.processes(task.group) if task.group else processes.descendants(task.main)
            boxed.terminate(inside, task.main)
        elif task.group:
            cgroups.signal_all(task.group, signal.SIGTERM)
        elif task.main:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.main, signal.SIGTERM)
            self._signal_newborn(task, signal.SIGTERM)

    def _kill(self, task: Task) -> None:
        task.kill_at = boot() + 0.5  # again, until its end is seen
        if task.group:
            cgroups.kill(task.group)
        else:
            processes.kill([task.pid], signal.SIGTERM)  # the shepherd kills all below it and reaps them
        if not task.group:
            self._signal_newborn(task, signal.SIGKILL)

    def _signal_newborn(self, task: Task, number: int) -> None:
        """A shepherd's main process may not lead its session yet."""
        if task.main and not _leads(task.main):
            processes.kill([task.main], number)

    def _look(self, task: Task) -> None:
        """After the main process: kill what remains; finish once nothing does."""
        if task.exit is not None:
            return self._record(task, task.exit)
        self.sessions.end(task)
        if not self._remains(task):
            return self._finish(task)
        if task.group:
            cgroups.kill(task.group)
        else:
            processes.kill(self._strays(task))
        task.look_at = boot() + task.pause
        task.pause = min(0.1, task.pause * 2)

    def _remains(self, task: Task) -> bool:
        if task.group:
            gone = not self.sessions.of(task) and cgroups.remove(task.group)
            return not (gone and self.starts.cleared(task))
        return self.sessions.of(task) or ("status " not in task.told and bool(self._strays(task)))

    def _strays(self, task: Task) -> list[int]:
        """Of a shepherd that was itself killed: its orphans came to us, and their children carry the
        marker."""
        kept = {t.pid for t in self._tasks.values() if t.state == "running"}
        kept |= self.sessions.keepers()
        if self._place.network is not None:
            kept.add(self._place.network.pid)
        ours = [p for p in processes.children(os.getpid()) if p not in kept]
        return ours + processes.marked(task.marker)

    def _finish(self, task: Task) -> None:
        task.listen()
        exit_code, number = _decode(task.status)
        failure = next((ln[7:] for ln in task.told.splitlines() if ln.startswith("failed ")), "")
        if self._place.box.made:
            by_bubblewrap = exit_code == 1 and not task.container
            failure = failure or (by_bubblewrap and self._sandbox_failure(task)) or ""
            exit_code, number, unstarted = boxed.decode(exit_code, number, task.said)
            if unstarted:
                failure = f"could not run {task.program!r}: {unstarted}"
        if failure:
            task.reason, task.message = "spawn_failed", failure
        elif task.reason == "":
            task.message = f"ended by {signal.Signals(number).name}" if number else ""
            if exit_code != 0:
                task.reason, task.message = self.starts.limit_reached(task, self.memory) or ("", task.message)
        record: dict[str, Any] = {"at": wall(), "mono": micro(boot()), "pid": task.main}
        record |= {"attempt": task.attempt, "rank": task.rank, "epoch": task.epoch}
        record |= {"exit_code": exit_code, "signal": number, "reason": task.reason, "message": task.message}
        record["peak_memory"] = task.meter.peak() if task.meter is not None and task.alone else None
        self.starts.close_meter(task)
        for fd in (task.pipe, task.said):
            if fd >= 0:
                os.close(fd)
        task.pipe, task.said, task.told = -1, -1, ""
        if task.restarts is not None:
            failed = bool(exit_code != 0 or task.reason)
            pause = task.restarts.after(failed, boot() - task.started if task.main else 0.0)
            if pause is not None:
                return self._wait_to_start(task, record, pause)
        task.state, task.exit = "ending", record
        self._record(task, record)

    def _record(self, task: Task, record: dict[str, Any]) -> None:
        """An exit is told once it is on disk; on a full one it is tried again until there is space."""
        try:
            self._journal.write("exit", record)
        except OSError:
            task.look_at = boot() + 0.5
            return
        task.state = "exited"
        self._tell(task, "task_exited", record)

    def _tell(self, task: Task, kind: str, what: dict[str, Any]) -> None:
        self._seq += 1
        event = {"seq": self._seq, "kind": kind, "at": wall(), "mono": micro(boot())}
        event |= {"attempt": task.attempt, "rank": task.rank, "epoch": task.epoch, **what}
        task.events.append(event)
        self._push(event)

    # --- pieces

    def _sandbox_failure(self, task: Task) -> str:
        path = task.log[len(self._place.work_path) + 1 :]
        return boxed.failure(tail_beneath(self._place.work, path, boxed.TAIL))


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def _decode(status: int | None) -> tuple[int | None, int | None]:
    """(exit code, signal) of a wait status; (None, None) of what never ran."""
    if status is None:
        return None, None
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None
