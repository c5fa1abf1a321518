"""Environments on disk: locked, built once, content-addressed, read-only, visible only when whole.

envs/<digest>/                 a relocatable virtual environment; .tidemill/built.json is its marker
envs/.tmp-<digest>-<pid>/      the box (box.py) of one being built; swept when nobody holds its lock
envs/.locks/<digest>           flock: one build per digest across processes (uv holds it too)
envs/.python/                  interpreters that uv downloaded
envs/logs/<digest>.log         what uv said in the latest build
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tidemill.domain.errors import Conflict, NotFound, TidemillError
from tidemill.environments import box, index, lock, overlay, python, tree
from tidemill.environments.box import Box, Confinement
from tidemill.environments.built import META, BuiltEnvironment, EnvironmentRecord, read_record, write_record
from tidemill.environments.conda import CondaFile, parse_conda
from tidemill.environments.filelock import FileLock
from tidemill.environments.images import inside
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.environments.install import CONFIG, Installation, Installed
from tidemill.environments.process import run_uv, uv_environment
from tidemill.environments.requirement import Place, parse_pip
from tidemill.environments.shared import LogLine, Shared
from tidemill.environments.spec import EnvironmentSpec

FORMAT = 2  # of the directory and of what the digest covers: raise it and everything is built anew
_TMP = ".tmp-"


@dataclass(frozen=True, slots=True)
class _Plan:
    digest: str
    parsed: CondaFile
    wanted: python.Wanted
    image: UnpackedImage | None = None

    @property
    def place(self) -> str:
        return f"in image {self.image.short}" if self.image else "on this host"


class EnvironmentBuilder:
    """Builds environments below `root` (the home's envs/). One event loop; any number of processes.

    `now` is the wall clock in microseconds. `strict_python` refuses another Python version than the one asked
    for; `allow_download` lets uv fetch it. `rank` says which interpreters jobs can run
    (`python.installed`); by default a root server takes those that other users can reach. `confinement` says
    where packages are built from source.
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], int],
        *,
        strict_python: bool = False,
        allow_download: bool = True,
        rank: Callable[[Path], int | None] | None = None,
        cache_dir: Path | None = None,
        confinement: Confinement | None = None,
    ) -> None:
        self._root = root
        self._now = now
        self._asked: dict[str, int] = {}
        self._strict = strict_python
        self._allow_download = allow_download
        self._rank = rank or (python.rank_for_other_users if os.geteuid() == 0 else lambda _: 0)
        self._managed = root / ".python"
        self._uv_env = uv_environment(self._managed, cache_dir)
        self._confinement = confinement or Confinement()
        self._pythons: tuple[python.Interpreter, ...] | None = None
        self._builds: Shared[EnvironmentRecord] = Shared()
        self._prepared = False

    def key(self, spec: EnvironmentSpec, image: UnpackedImage | None = None) -> str:
        """Digest of what would be built: requirements, options, Python version, platform, format; and the
        image that it is built in.

        Names, images, variables and comments have no part in it. Raises InvalidRequest (with line and column)
        for a spec that cannot be read."""
        return self._plan(spec, image).digest

    async def ensure(
        self, spec: EnvironmentSpec, log: LogLine, image: UnpackedImage | None = None
    ) -> BuiltEnvironment:
        """The environment of `spec`, built now if it is not there, in `image` if one is given. `log` gets
        every line of the build.

        However many ask at once, in however many processes, it is built once. Raises InvalidRequest (a
        conflict, a package that does not exist: with its line), OutOfSpace, or 503 when the index cannot be
        reached.
        Cancelling the last one who waits stops the build.
        """
        plan = self._plan(spec, image)
        record = self._record(plan.digest)
        cached = record is not None
        if record is None:
            record = await self._builds.join(plan.digest, log, lambda say: self._build_once(plan, say))
        if self._strict and record.substituted:
            raise python.refusal(plan.wanted, "", plan.place)
        return replace(self._built(record, cached), notes=self._notes(spec, plan, record))

    def find(self, digest: str) -> BuiltEnvironment | None:
        """A built environment, as it was built; None when it is not there."""
        record = self._record(digest)
        return None if record is None else self._built(record, cached=True)

    def manages(self, prefix: Path) -> bool:
        """Whether a Python is one that uv downloaded for this home."""
        return prefix.is_relative_to(self._managed)

    def is_built(self, digest: str) -> bool:
        """Whoever asks may be about to use it: see `asked_at`."""
        self._asked[digest] = self._now()
        return self._record(digest) is not None

    def asked_at(self, digest: str) -> int:
        """When this process was last asked for it, microseconds; 0: never."""
        return self._asked.get(digest, 0)

    def list(self) -> list[EnvironmentRecord]:
        """Every built environment, oldest first."""
        names = [path.parent.name for path in self._root.glob(f"[0-9a-f]*/{META}")]
        records = [record for name in names if (record := self._record(name)) is not None]
        return sorted(records, key=lambda record: record.built_at)

    def describe(self, digest: str) -> EnvironmentRecord:
        """Lock text, packages, size in bytes, when and how long it was built. Raises NotFound."""
        record = self._record(digest)
        if record is None:
            raise NotFound(f"Environment {digest!r} is not built in this home.", "EnvironmentNotFound")
        return record

    def log_path(self, digest: str) -> Path:
        return self._root / "logs" / f"{digest}.log"

    def set_aside(self, digest: str) -> bool:
        """Not there any more from now on, at once; `sweep` frees its space. -> False where there is none, or
        it is being built. The caller knows that no job uses it."""
        with FileLock(self._lock_path(digest)) as held:
            if not held.try_acquire() or not (self._root / digest).exists():
                return False
            self._rename_away(digest)
            return True

    def remove(self, digest: str) -> None:
        """Frees its disk space; absent is fine. The caller knows that no job uses it. Raises Conflict while
        it is being built."""
        with FileLock(self._lock_path(digest)) as held:
            if not held.try_acquire():
                raise Conflict(
                    f"Environment {digest} is being built just now: cancel what asks for it first."
                )
            self._discard(digest)

    def sweep(self) -> int:
        """Removes what killed builds left behind; returns how many. Builds that live are left alone."""
        swept = 0
        for path in self._root.glob(_TMP + "*"):
            digest = path.name.removeprefix(_TMP).split("-")[0]
            with FileLock(self._lock_path(digest)) as held:
                if held.try_acquire():
                    box.clear(path, self._confinement)
                    swept += 1
        return swept

    # what to build

    def _plan(self, spec: EnvironmentSpec, image: UnpackedImage | None = None) -> _Plan:
        parsed = _parse(spec.conda, spec.pip)
        if image is not None:
            inside.check(image, spec.image or image.short)
            own = inside.pythons(image)
            wanted = python.choose(parsed.python, own or python.in_folder(self._managed))
            if wanted.interpreter is None and own:
                wanted = python.choose(parsed.python, (*own, *python.in_folder(self._managed)))
            return _Plan(_digest(parsed, wanted.minor, image), parsed, wanted, image)
        wanted = python.choose(parsed.python, self._installed())
        if wanted.interpreter is not None and not wanted.interpreter.path.exists():
            self._pythons = None  # upgraded or removed since we looked
            wanted = python.choose(parsed.python, self._installed())
        return _Plan(_digest(parsed, wanted.minor, None), parsed, wanted)

    def _installed(self) -> tuple[python.Interpreter, ...]:
        if self._pythons is None:
            self._pythons = python.installed(self._managed, self._rank)
        return self._pythons

    def _notes(self, spec: EnvironmentSpec, plan: _Plan, record: EnvironmentRecord) -> tuple[str, ...]:
        notes = list(spec.notes)
        if spec.host_instead:
            packages = (
                "with the packages of the conda file"
                if spec.conda or spec.pip
                else "without further packages"
            )
            instead = f"{spec.host_instead}; its Python {record.python_version} is used"
            notes.append(f"Image {spec.image}: {instead}, {packages}.")
        return tuple(dict.fromkeys([*notes, *plan.parsed.notes, *record.notes]))

    # building

    async def _build_once(self, plan: _Plan, say: LogLine) -> EnvironmentRecord:
        try:
            await asyncio.to_thread(self._prepare)
            with FileLock(self._lock_path(plan.digest)) as held:
                await held.acquire(
                    lambda: say("Another process is building this environment: waiting for it.")
                )
                record = self._record(plan.digest)
                return record or await self._build(plan, held, say)
        except OSError as error:
            if tree.is_full(error):
                raise lock.out_of_space() from error
            raise

    async def _build(self, plan: _Plan, held: FileLock, say: LogLine) -> EnvironmentRecord:
        started = self._now()
        with self.log_path(plan.digest).open("w", encoding="utf-8", buffering=1) as file:

            def log(line: str) -> None:
                say(line)
                file.write(line + "\n")

            place = self._root / f"{_TMP}{plan.digest}-{os.getpid()}"
            made: Box | None = None
            try:
                await asyncio.to_thread(self._discard, plan.digest)
                interpreter, note = await self._interpreter(plan, held, log)
                made = await asyncio.to_thread(self._box, plan, place, interpreter)
                done = await Installation(
                    made, plan.parsed.requirements, plan.parsed.options, held, log
                ).make(interpreter)
                record = EnvironmentRecord(
                    digest=plan.digest,
                    python_version=done.version,
                    base_prefix=str(interpreter.prefix),
                    lock_text=done.lock_text,
                    notes=tuple(said for said in (note, done.no_pip) if said),
                    substituted=interpreter.minor != plan.wanted.minor,
                    built_at=self._now(),
                    seconds=(self._now() - started) / 1e6,
                    image=plan.image.digest if plan.image else "",
                )
                record = await asyncio.to_thread(self._publish, made.tree, record, done)
                log(f"Ready: {record.seconds:.1f} s, {record.size / 1e6:.0f} MB.")
                return record
            except TidemillError as error:
                file.write(error.message + "\n")
                raise
            finally:
                await asyncio.shield(asyncio.to_thread(_leave, made, place))

    def _box(self, plan: _Plan, place: Path, interpreter: python.Interpreter) -> Box:
        self._managed.mkdir(exist_ok=True)
        reads = [self._managed] if plan.image else [self._managed, interpreter.prefix]
        settings = index.settings(self._uv_env)
        shared = index.cache_folder(self._uv_env)
        made = Box(place, self._confinement, settings, shared, reads, plan.image)
        made.make()
        return made

    async def _interpreter(self, plan: _Plan, held: FileLock, log: LogLine) -> tuple[python.Interpreter, str]:
        """The Python to build with and the note about it ("" when it is the one asked for)."""
        wanted, why = plan.wanted, ""
        if wanted.interpreter is not None:
            return wanted.interpreter, ""
        if self._allow_download:
            log(f"Python {python.dotted(wanted.minor)} is not installed: asking uv for it.")
            why = await self._download(wanted, held, log)
            self._pythons = None
            there = python.in_folder(self._managed) if plan.image else self._installed()
            exact = next((p for p in there if p.minor == wanted.minor), None)
            if exact is not None:
                return exact, ""
        used = python.nearest(wanted)
        if used is None or self._strict:
            raise python.refusal(wanted, why, plan.place)
        note = python.substitution(wanted, used, why, plan.place)
        log(note)
        return used, note

    async def _download(self, wanted: python.Wanted, held: FileLock, log: LogLine) -> str:
        """Empty when uv fetched it, else why not."""
        env = self._uv_env | {"UV_HTTP_RETRIES": "1"}  # offline, more tries only make the user wait
        arguments = ["python", "install", "--no-bin", python.dotted(wanted.minor)]
        code, output = await run_uv(arguments, env=env, cwd=self._root, log=log, held=held.descriptors)
        if code == 0:
            return ""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return (
            f"uv could not download it: {lines[-1].removeprefix('cause: ')}"
            if lines
            else "uv could not download it"
        )

    def _publish(self, work: Path, record: EnvironmentRecord, done: Installed) -> EnvironmentRecord:
        """Read-only, on disk, then visible: who sees the marker has files that survive a power cut. What a
        package may have put in the place of our own files is written over."""
        meta = work / META
        tree.replace_file(meta, "")
        meta.unlink()
        meta.mkdir()
        (meta / "lock.txt").write_text(done.lock_text, "utf-8")
        overlay.write_link(meta)
        tree.replace_file(work / CONFIG, done.config)
        overlay.point_scripts(work / "bin")
        size = tree.make_read_only(work)
        record = replace(record, size=size)
        os.chmod(work / META, 0o755)
        write_record(work, record)
        os.chmod(work / META, 0o555)
        tree.sync_file_system(work)
        if os.lstat(work).st_uid != os.geteuid():
            os.lchown(work, os.geteuid(), os.getegid())
        target = self._root / record.digest
        os.rename(work, target)
        os.chmod(target, 0o555)
        tree.sync_directory(self._root)
        return record

    # files

    def _record(self, digest: str) -> EnvironmentRecord | None:
        """None also when the interpreter below it has gone: then it is built anew."""
        path = self._root / digest
        record = read_record(path) if digest else None
        if record is None or record.image:  # an image's Python is not at its path here
            return record
        return record if os.path.exists(path / "bin" / "python") else None

    def _built(self, record: EnvironmentRecord, cached: bool) -> BuiltEnvironment:
        path = self._root / record.digest
        return BuiltEnvironment(
            digest=record.digest,
            path=path,
            python=path / "bin" / "python",
            bin_dir=path / "bin",
            base_prefix=Path(record.base_prefix),
            cached=cached,
            notes=record.notes,
            lock_text=record.lock_text,
            python_version=record.python_version,
        )

    def _discard(self, digest: str) -> None:
        """Removes the environment and remains of its killed builds. The lock is held."""
        if (self._root / digest).exists():
            self._rename_away(digest)
        for path in self._root.glob(f"{_TMP}{digest}-*"):
            box.clear(path, self._confinement)

    def _rename_away(self, digest: str) -> None:
        os.chmod(self._root / digest, 0o700)
        os.rename(self._root / digest, self._root / f"{_TMP}{digest}-removed")

    def _prepare(self) -> None:
        """Once per process, before its first build: the directories, and out with what a killed one left."""
        if self._prepared:
            return
        for directory in (self._root, self._root / ".locks", self._root / "logs"):
            directory.mkdir(parents=True, exist_ok=True)
        self.sweep()
        self._prepared = True

    def _lock_path(self, digest: str) -> Path:
        return self._root / ".locks" / digest


def _leave(made: Box | None, place: Path) -> None:
    if made is not None:
        made.close()
    tree.remove_tree(place)


@lru_cache(maxsize=256)
def _parse(conda: str | None, pip: tuple[str, ...]) -> CondaFile:
    """Thousands of jobs share a few environments: each text is read once."""
    parsed = parse_conda(conda) if conda else CondaFile()
    lines = parse_pip([(line, Place("requirements", number)) for number, line in enumerate(pip, 1)])
    return replace(
        parsed,
        requirements=parsed.requirements + lines.requirements,
        options=parsed.options + lines.options,
    )


def _digest(parsed: CondaFile, minor: python.Minor, image: UnpackedImage | None) -> str:
    inputs = [
        f"format {FORMAT}",
        f"python {python.dotted(minor)}",
        f"platform {platform.system()}-{platform.machine()}",
        *sorted({requirement.text for requirement in parsed.requirements}),
        *parsed.options,
        *([f"image {image.digest}"] if image else []),
    ]
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:40]
