"""What a job will do, resolved at submit, and what has become of it: the `status` JSON of a job's row."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.domain.containers.plan import ContainerRecord, PlannedGroup
from tidemill.domain.jobservices import JobService
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.parallel import ParallelPlan, ParallelProgress
from tidemill.domain.pipelines.model import Pipeline
from tidemill.domain.serving.service import Container, InstanceProgress, PlannedService

COMMAND, PIPELINE, SWEEP = "command", "pipeline", "sweep"  # kinds of jobs


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie in a workspace's storage. `path` is a blob name, or a prefix ending in '/'."""

    account: str
    container: str
    path: str


@dataclass(frozen=True, slots=True)
class TablePart:
    """What an MLTable names outside its own folder. `value`: as it is written there; `place`: of a pattern,
    the folder above `tail`, what the pattern says below it."""

    value: str
    kind: str  # "file" | "folder" | "pattern"
    place: Place
    tail: str = ""


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """A literal (`literal` set), bytes of ours (`place` set) or something to fetch (`url` set)."""

    name: str
    type: str
    mode: str
    given: str  # what the user wrote, for sentences
    literal: str | None = None
    place: Place | None = None
    url: str = ""
    uri: str = ""  # the full azureml:// form, handed to the job with mode "direct"
    may_be_empty: bool = False  # a folder that another step made: there may be nothing in it
    parts: tuple[TablePart, ...] = ()  # of an mltable: what lies outside its folder


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    name: str
    type: str
    mode: str
    place: Place
    uri: str
    asset_name: str = ""
    asset_version: str = ""


@dataclass(frozen=True, slots=True)
class PlannedBuild:
    """A Docker build context: its folder, and the Dockerfile's path in that."""

    context: Place
    dockerfile: str


@dataclass(frozen=True, slots=True)
class PlannedEnvironment:
    """`digest == ""`: the host's own Python. `notes`: what is used instead of what was asked, and why.

    `in_image`: the job runs among the files of `image`; `image_digest` is its manifest's, "" until it is
    here; `built` the environment that was built in it, if packages were asked for. `host_instead`: why the
    host stands in for `image`. `build`: what the image is built from, in place of where it is fetched;
    `image` is then a name for sentences."""

    label: str = "host"
    digest: str = ""
    conda: str | None = None
    pip: tuple[str, ...] = ()
    image: str | None = None
    name: str = ""
    version: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    in_image: bool = False
    image_digest: str = ""
    built: str = ""
    host_instead: str = ""
    build: PlannedBuild | None = None
    container: Container | None = None  # of deployments: its image has a server of its own

    @property
    def packages(self) -> bool:
        return bool(self.conda or self.pip)


@dataclass(frozen=True, slots=True)
class ChildOf:
    """Which job started this one, and as what. `step`: "train", of one in a loop "train[2]"."""

    parent: str
    root: str  # the job that started them all
    step: str


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Of a job that starts others (a pipeline, a sweep), `job` holds what all kinds have: experiment, names,
    priority, timeout, identity. It has no compute, no code and no command of its own."""

    job: CommandJob
    compute_uid: str
    compute_name: str
    environment: PlannedEnvironment = field(default_factory=PlannedEnvironment)
    code: Place | None = None
    inputs: tuple[PlannedInput, ...] = ()
    outputs: tuple[PlannedOutput, ...] = ()
    team: str = ""  # object id of the group, or of the user where there is none
    user: str = ""  # object id of who submitted it
    acts_as: str = ""  # object id of the principal whose roles it has besides its own, "" for none
    account: str = ""  # the workspace's storage account
    isolation: str = ""  # the level it must have, "": none
    artifacts: Place | None = None  # where logs and outputs/ go
    services: tuple[JobService, ...] = ()
    serverless: str = ""  # the size of its nodes, of a job whose compute was made for it and goes with it
    service: PlannedService | None = None  # it is an instance of a deployment
    parallel: ParallelPlan | None = None  # it is a parallel step
    group: PlannedGroup | None = None  # it is a run of a container group
    images: tuple[PlannedEnvironment, ...] = ()  # of such a run: one for each container

    @property
    def has_files(self) -> bool:
        """Something is put into its directory before it starts."""
        return bool(self.code or self.inputs or self.outputs or self.service or self.group)


@dataclass(frozen=True, slots=True)
class JobError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class KeptNodes:
    """Nodes of a failed job that stay for a look, `nodes` in rank order. Times in microseconds."""

    attempt: str
    nodes: tuple[str, ...]
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The moving part of a job. Times in microseconds; `attempt` counts from 1, 0: none yet."""

    attempt: int = 0
    system_failures: int = 0
    preemptions: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    exit_code: int | None = None
    error: JobError | None = None
    built_environment: bool = False  # its environment was built for it: the build's log is one of its logs
    logs: tuple[tuple[str, int], ...] = ()  # (path, size) once collected
    registered: tuple[tuple[str, str], ...] = ()  # (output, asset id)
    kept: KeptNodes | None = None  # while they are; the row's `next_at` is their end


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """The best trial so far, and its score."""

    best: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    plan: JobPlan
    progress: JobProgress = field(default_factory=JobProgress)
    kind: str = COMMAND
    child: ChildOf | None = None
    pipeline: Pipeline | None = None
    result_key: str = ""  # of a step whose result may be used again: app.step_reuse
    sweep: SweepProgress | None = None
    instance: InstanceProgress | None = None
    parallel: ParallelProgress | None = None
    containers: tuple[ContainerRecord, ...] = ()  # of a run of a container group
