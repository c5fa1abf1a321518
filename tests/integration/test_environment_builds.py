"""Real builds by uv. Packages come from wheels made here, except in the one test of the real index."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wheelmaker import wheel

from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, OutOfSpace, TidemillError
from tidemill.environments import lock
from tidemill.environments.box import Box
from tidemill.environments.builder import BuiltEnvironment, EnvironmentBuilder
from tidemill.environments.filelock import FileLock
from tidemill.environments.spec import EnvironmentSpec, from_arm

NOBODY = 65534
SPEC = EnvironmentSpec(pip=("tmtide", "tmmoon==1.0"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    wheel(directory, "tmmoon", "1.0")
    wheel(directory, "tmmoon", "2.0")
    wheel(directory, "tmtide", "1.0", ("tmmoon<2",), "def say():\n    print('high water')\n")
    wheel(directory, "tmflood", "1.0", ("tmmoon>=2",))
    wheel(directory, "tmbulky", "1.0", size=8_000_000)
    wheel(directory, "pip", "99.0")
    return directory


@pytest.fixture
def local_index(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv sees these wheels and nothing else: no network, and no stranger's package of the same name."""
    for key in [key for key in os.environ if key.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(key)
    config = tmp_path / "uv.toml"
    config.write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(config))


@pytest.fixture
def place() -> Iterator[Path]:
    """A root that other users can reach, as a home's mount is for jobs: not below pytest's own folder, which
    every session of pytest closes to others when it starts."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-environments-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):  # read-only trees cannot be removed
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def make(place: Path, local_index: None) -> Callable[..., EnvironmentBuilder]:
    def build(**options: object) -> EnvironmentBuilder:
        settings = {"allow_download": False, "cache_dir": place / "cache", **options}
        return EnvironmentBuilder(place / "envs", lambda: time.time_ns() // 1000, **settings)  # type: ignore[arg-type]

    return build


def run_program(program: Path) -> str:
    return subprocess.check_output([program], text=True, timeout=120)


def run(built: BuiltEnvironment, code: str, user: int | None = None) -> str:
    answer = subprocess.run(
        [built.python, "-I", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        user=user,
        cwd="/",
        check=False,
    )
    return answer.stdout + answer.stderr


async def test_ten_askers_get_one_build(
    make: Callable[..., EnvironmentBuilder], monkeypatch: pytest.MonkeyPatch
):
    builder, calls, real = make(), [], Box.run

    async def counted(box: Box, argv: list[str], *others: object) -> tuple[int, str]:
        calls.append(argv[1:])
        return await real(box, argv, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Box, "run", counted)
    logs: list[list[str]] = [[] for _ in range(10)]
    built = await asyncio.gather(*(builder.ensure(SPEC, log.append) for log in logs))

    assert [call[0] for call in calls] == ["venv", "pip", "pip", "-I"]
    assert {environment.digest for environment in built} == {builder.key(SPEC)}
    assert all(log == logs[0] for log in logs)
    assert any("Solving 2 requirements" in line for line in logs[0])
    assert builder.log_path(built[0].digest).read_text().splitlines() == logs[0]
    assert "tmtide==1.0" in built[0].lock_text
    assert "--hash=sha256:" in built[0].lock_text

    again = await builder.ensure(EnvironmentSpec(pip=("tmmoon==1.0", "tmtide")), logs[0].append)
    assert (again.cached, again.path, len(calls)) == (True, built[0].path, 4)
    assert run(again, "import tmtide, tmmoon; tmtide.say(); print(tmmoon.version)") == "high water\n1.0\n"
    assert run_program(again.bin_dir / "tmtide-say") == "high water\n"

    record = builder.describe(again.digest)
    assert record.packages == ("pip==99.0", "tmmoon==1.0", "tmtide==1.0")
    assert (record.size > 1000, record.seconds > 0, record.python_version.startswith("3.")) == (
        True,
        True,
        True,
    )
    assert [listed.digest for listed in builder.list()] == [again.digest]
    assert make().find(again.digest) == again  # another process, or the next start of the server


def test_ten_processes_get_one_build(place: Path, make: Callable[..., EnvironmentBuilder]):
    code = (
        "import asyncio, pathlib, sys, time\n"
        "from tidemill.environments.builder import EnvironmentBuilder\n"
        "from tidemill.environments.spec import EnvironmentSpec\n"
        f"b = EnvironmentBuilder(pathlib.Path({str(place / 'envs')!r}), lambda: time.time_ns() // 1000,\n"
        f"    allow_download=False, cache_dir=pathlib.Path({str(place / 'cache')!r}))\n"
        "asyncio.run(b.ensure(EnvironmentSpec(pip=('tmtide', 'tmmoon==1.0')), print))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(output.count("Solving") for output in outputs) == 1
    assert make().is_built(make().key(SPEC))


async def test_nothing_of_it_can_be_changed_by_a_job(make: Callable[..., EnvironmentBuilder], place: Path):
    built = await make().ensure(SPEC, print)
    for path in [built.path, *built.path.rglob("*")]:
        info = path.lstat()
        if not stat.S_ISLNK(info.st_mode):
            assert not info.st_mode & 0o222, path
            assert info.st_mode & 0o444 == 0o444, path
            assert stat.S_ISDIR(info.st_mode) or info.st_nlink == 1, f"{path} is shared with uv's cache"
    assert list(built.path.rglob("tmtide/__pycache__/*.pyc"))
    if os.geteuid() != 0:
        pytest.skip("root needed to run as another user")
    assert run(built, "import tmtide; tmtide.say()", NOBODY) == "high water\n"
    code = "import tmtide, os; open(tmtide.__file__, 'a')"
    assert "PermissionError" in run(built, code, NOBODY)
    assert "PermissionError" in run(built, "import sys, os; os.mkdir(sys.prefix + '/x')", NOBODY)


async def test_an_index_without_pip_is_said(
    make: Callable[..., EnvironmentBuilder], wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    poor = tmp_path / "poor"
    poor.mkdir()
    for file in sorted(wheels.iterdir()):  # noqa: ASYNC240
        if file.name.startswith("tm"):
            shutil.copy(file, poor)
    (tmp_path / "uv.toml").write_text(f'no-index = true\nfind-links = ["{poor}"]\n')
    builder, log = make(), []
    built = await builder.ensure(SPEC, log.append)
    assert built.notes == (lock.NO_PIP,)
    assert lock.NO_PIP in log
    assert builder.describe(built.digest).packages == ("tmmoon==1.0", "tmtide==1.0")
    assert (await builder.ensure(EnvironmentSpec(), log.append)).notes == (lock.NO_PIP,)
    with pytest.raises(InvalidRequest, match=r"'pip' \(requirements, line 1:1\) does not exist"):
        await builder.ensure(EnvironmentSpec(pip=("pip",)), log.append)


async def test_a_conflict_and_a_missing_package_are_named(
    make: Callable[..., EnvironmentBuilder], place: Path
):
    builder = make()
    conda = "dependencies:\n  - python\n  - pip:\n      - tmtide\n      - tmflood==1.0\n"
    with pytest.raises(InvalidRequest) as conflict:
        await builder.ensure(EnvironmentSpec(conda=conda), print)
    assert conflict.value.code == "EnvironmentConflict"
    assert "tmtide (conda file, line 4:9) and tmflood==1.0 (conda file, line 5:9)" in conflict.value.message

    with pytest.raises(InvalidRequest) as missing:
        await builder.ensure(EnvironmentSpec(conda=conda.replace("tmflood==1.0", "no-such-thing")), print)
    assert missing.value.code == "PackageNotFound"
    assert "Package 'no-such-thing' (conda file, line 5:9) does not exist" in missing.value.message
    assert not list((place / "envs").glob(".tmp-*"))
    assert builder.list() == []
    key = builder.key(EnvironmentSpec(conda=conda))
    assert "No set of versions satisfies" in builder.log_path(key).read_text()


async def test_an_image_alone_is_the_hosts_python(make: Callable[..., EnvironmentBuilder]):
    spec = from_arm({"image": "library/python:latest"}, "n", "1", images="prefer-host")
    built = await make().ensure(spec, print)
    assert built.notes == (
        "Image library/python:latest: on this server the host stands in for images (images: prefer-host); "
        f"its Python {built.python_version} is used, without further packages.",
    )
    assert run(built, "import sys; print(sys.base_prefix, sys.version.split()[0])").split() == [
        str(built.base_prefix),
        built.python_version,
    ]


async def test_another_python_is_told_or_refused(make: Callable[..., EnvironmentBuilder]):
    spec = EnvironmentSpec(conda="dependencies: [python=3.8, pip: [tmtide]]")
    lenient, strict = make(), make(strict_python=True)
    if (3, 8) in [python.minor for python in lenient._installed()]:
        pytest.skip("Python 3.8 is installed here")
    with pytest.raises(InvalidRequest, match=r"^Python 3\.8 is not installed on this host.*Installed: 3\."):
        await strict.ensure(spec, print)
    built = await lenient.ensure(spec, print)
    assert built.digest == lenient.key(spec)
    assert built.notes[0].startswith("Python 3.8 is not installed on this host: Python 3.")
    assert lenient.describe(built.digest).substituted
    with pytest.raises(InvalidRequest, match=r"Python 3\.8 is not installed"):
        await strict.ensure(spec, print)


async def test_without_an_index(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    builder = EnvironmentBuilder(place / "envs", lambda: 0, cache_dir=place / "cache")
    with pytest.raises(TidemillError) as error:
        await builder.ensure(EnvironmentSpec(pip=("six",)), print)
    assert error.value.code == "PackageIndexUnreachable"
    assert run(await builder.ensure(EnvironmentSpec(), print), "print(1)") == "1\n"
    substituted = await builder.ensure(EnvironmentSpec(conda="dependencies: [python=3.8]"), print)
    assert "could not download it" in substituted.notes[0] or substituted.python_version.startswith("3.8")


async def test_the_last_one_who_cancels_stops_the_build(make: Callable[..., EnvironmentBuilder], place: Path):
    builder, solving = make(), asyncio.Event()
    first = asyncio.create_task(builder.ensure(SPEC, lambda line: solving.set()))
    second = asyncio.create_task(builder.ensure(SPEC, lambda line: None))
    await asyncio.wait_for(solving.wait(), 60)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not second.done()  # somebody still waits: it goes on
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert not list((place / "envs").glob(".tmp-*"))
    assert not builder.is_built(builder.key(SPEC))
    with FileLock(place / "envs" / ".locks" / builder.key(SPEC)) as held:
        assert held.try_acquire(), "something still holds the lock of the cancelled build"
    assert (await builder.ensure(SPEC, print)).cached is False


@pytest.mark.kill
async def test_a_killed_server_leaves_only_what_is_swept(
    make: Callable[..., EnvironmentBuilder], place: Path
):
    code = (
        "import asyncio, os, pathlib, signal\n"
        "from tidemill.environments.builder import EnvironmentBuilder\n"
        "from tidemill.environments.spec import EnvironmentSpec\n"
        f"b = EnvironmentBuilder(pathlib.Path({str(place / 'envs')!r}), lambda: 0,\n"
        f"    allow_download=False, cache_dir=pathlib.Path({str(place / 'cache')!r}))\n"
        "log = lambda line: line.startswith('Solving') and os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(b.ensure(EnvironmentSpec(pip=('tmtide', 'tmmoon==1.0')), log))\n"
    )
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await asyncio.wait_for(killed.wait(), 60) == -signal.SIGKILL
    builder = make()
    assert len(list((place / "envs").glob(".tmp-*"))) == 1
    assert builder.list() == []
    with FileLock(place / "envs" / ".locks" / builder.key(SPEC)) as held:
        await asyncio.wait_for(held.acquire(lambda: None), 60)  # until the kernel has killed its uv
        assert builder.sweep() == 0, "a tree whose lock is held is being built"
    assert builder.sweep() == 1
    assert not list((place / "envs").glob(".tmp-*"))
    assert not (await builder.ensure(SPEC, print)).cached


async def test_an_environment_whose_python_has_gone_is_built_again(make: Callable[..., EnvironmentBuilder]):
    builder = make()
    built = await builder.ensure(SPEC, print)
    built.bin_dir.chmod(0o755)
    built.python.unlink()
    built.python.symlink_to("/nowhere/python3.11")
    assert not builder.is_built(built.digest)
    assert not (await builder.ensure(SPEC, print)).cached
    assert "high water" in run(built, "import tmtide; tmtide.say()")


async def test_remove(make: Callable[..., EnvironmentBuilder], place: Path):
    builder = make()
    built = await builder.ensure(SPEC, print)
    with FileLock(place / "envs" / ".locks" / built.digest) as held:
        assert held.try_acquire()
        with pytest.raises(Conflict, match="is being built"):
            builder.remove(built.digest)
    builder.remove(built.digest)
    builder.remove(built.digest)
    assert not built.path.exists()
    with pytest.raises(NotFound):
        builder.describe(built.digest)


@pytest.mark.root
def test_a_full_disk_is_named_and_leaves_nothing(place: Path, local_index: None):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("root and unshare needed for a small file system")
    small = place / "small"
    small.mkdir()
    code = (
        "import asyncio, pathlib, sys\n"
        "from tidemill.domain.errors import OutOfSpace\n"
        "from tidemill.environments.builder import EnvironmentBuilder\n"
        "from tidemill.environments.spec import EnvironmentSpec\n"
        f"b = EnvironmentBuilder(pathlib.Path({str(small / 'envs')!r}), lambda: 0,\n"
        f"    allow_download=False, cache_dir=pathlib.Path({str(place / 'cache')!r}))\n"
        "try:\n"
        "    asyncio.run(b.ensure(EnvironmentSpec(pip=('tmbulky',)), print))\n"
        "except OutOfSpace as error:\n"
        "    print('REFUSED', error, list(b._root.glob('.tmp-*')), b.list())\n"
        "asyncio.run(b.ensure(EnvironmentSpec(pip=('tmtide',)), print))\n"
        "print('WORKS')\n"
    )
    script = f'mount -t tmpfs -o size=4m tmpfs {small} && exec {sys.executable} -c "$0"'
    answer = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "mount" in answer.stderr and answer.returncode == 32:
        pytest.skip(f"no mounting here: {answer.stderr}")
    assert "REFUSED No space left on the disk of this home" in answer.stdout, answer.stdout + answer.stderr
    assert "[] []" in answer.stdout
    assert answer.stdout.endswith("WORKS\n")
    assert OutOfSpace("x").status == 507


@pytest.mark.slow
async def test_the_demos_environment_from_the_real_index(place: Path):
    builder = EnvironmentBuilder(place / "envs", lambda: time.time_ns() // 1000)
    conda = "dependencies:\n  - python=3.11\n  - pip:\n      - scikit-learn\n      - mlflow-skinny\n"
    try:
        built = await builder.ensure(EnvironmentSpec(conda=conda), print)
    except TidemillError as error:
        if error.code == "PackageIndexUnreachable" and not os.environ.get("CI"):
            pytest.skip(f"no package index: {error}")
        raise
    record = builder.describe(built.digest)
    print(f"built in {record.seconds:.1f} s, {record.size / 1e6:.0f} MB, {len(record.packages)} packages")
    code = (
        "import mlflow, sklearn.datasets as d; print(callable(mlflow.log_metric), d.load_digits().data.shape)"
    )
    assert run(built, code, NOBODY if os.geteuid() == 0 else None) == "True (1797, 64)\n"
