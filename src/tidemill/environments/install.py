"""An environment made in a box: a virtual environment, the lock, the packages, their bytecode.

First as if nothing had to be built: only wheels, which uv unpacks without running anything of theirs. Where a
package has none, the same again with builds allowed, in a box that is foreign from then on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.environments import lock, python, tree
from tidemill.environments.box import Box
from tidemill.environments.filelock import FileLock
from tidemill.environments.requirement import Requirement
from tidemill.environments.shared import LogLine

LOCK, CONFIG = "lock.txt", "pyvenv.cfg"
_TEXT_LIMIT = 8 << 20
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?[\w.+-]{0,20}")


@dataclass(frozen=True, slots=True)
class Installed:
    """`version` of Python; `lock_text` what was installed; `no_pip` why it has no pip, or ""; `config` the
    text of its pyvenv.cfg, from before any package was there."""

    version: str
    lock_text: str
    no_pip: str
    config: str


class Installation:
    """`options` are uv's, as the user wrote them."""

    def __init__(
        self,
        box: Box,
        requirements: Sequence[Requirement],
        options: Sequence[str],
        held: FileLock,
        log: LogLine,
    ) -> None:
        self._box = box
        self._wanted = requirements
        self._options = list(options)
        if {"--extra-index-url", "--index-url"} & set(options):
            self._options += ["--index-strategy", "unsafe-best-match"]  # what pip does with several indexes
        self._held = held
        self._log = log

    async def make(self, interpreter: python.Interpreter) -> Installed:
        """Raises InvalidRequest, OutOfSpace, or 503 when the index cannot be reached."""
        box = self._box
        await self._uv(["venv", "--relocatable", "--no-project", "--quiet", "--python", str(interpreter.path),
                        str(box.tree)], "make a virtual environment for")  # fmt: skip
        config = tree.read_text(box.tree, CONFIG, _TEXT_LIMIT)
        if self._wanted:
            self._log(f"Solving {len(self._wanted)} requirements for Python {interpreter}.")
        no_pip = await self._solve()
        text = tree.read_text(box.folder, LOCK, _TEXT_LIMIT)
        if text:
            await self._install()
            await self._compile(interpreter)
        await asyncio.to_thread(tree.check, box.tree)
        found = re.search(r"^version_info = (\S+)$", config, re.MULTILINE)
        version = found[1] if found and _VERSION.fullmatch(found[1]) else python.dotted(interpreter.minor)
        return Installed(version, text, no_pip, config)

    async def _solve(self) -> str:
        """Writes the lock. Every environment has a pip, as Azure's have, unless its index offers none: -> why
        it has none, or ""."""
        if lock.must_build(self._wanted, self._options):
            self._allow_builds("A requirement is to be built from source,")
        wanted = lock.with_pip(self._wanted)
        code, output, said = await self._compile_lock(wanted)
        if code != 0 and not self._box.foreign and lock.lacks_wheel(output):
            self._allow_builds(lock.without_wheel(output))
            code, output, said = await self._compile_lock(wanted)
        if code == 0 or not lock.lacks_pip(output, self._wanted):
            for line in said:  # only if it is the user's concern
                self._log(line)
            self._check(code, output, "solve")
            return ""
        if self._wanted:
            code, output, said = await self._compile_lock(self._wanted)
            for line in said:
                self._log(line)
            self._check(code, output, "solve")
        else:
            await asyncio.to_thread((self._box.folder / LOCK).touch)
        self._log(lock.NO_PIP)
        return lock.NO_PIP

    async def _compile_lock(self, wanted: Sequence[Requirement]) -> tuple[int, str, list[str]]:
        box, said = self._box, list[str]()
        (box.folder / "in" / "requirements.in").write_text(lock.requirements_text(wanted), "utf-8")
        arguments = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes",
                     "--output-file", str(box.folder / LOCK), "--python", str(box.tree / "bin" / "python"),
                     *self._options, *self._no_build(),
                     str(box.folder / "in" / "requirements.in")]  # fmt: skip
        code, output = await self._run_uv(arguments, said.append)
        return code, output, said

    async def _install(self) -> None:
        box = self._box
        await self._uv(["pip", "sync", "--python", str(box.tree / "bin" / "python"), "--link-mode", "copy",
                        *self._options, *self._no_build(), str(box.folder / LOCK)], "install")  # fmt: skip

    async def _compile(self, interpreter: python.Interpreter) -> None:
        """Bytecode, by a Python that reads nothing of the environment at its start (no site: no `.pth` file
        of a package runs). What does not compile is left as it is, as pip leaves it."""
        argv = [str(interpreter.path), "-I", "-S", "-m", "compileall", "-q", "-q", "-j", "0",
                str(self._box.tree / "lib")]  # fmt: skip
        await self._box.run(argv, _unheard, self._held.descriptors)

    def _no_build(self) -> list[str]:
        return [] if self._box.foreign else ["--no-build"]

    def _allow_builds(self, what: str) -> None:
        self._box.refuse_source(what)
        if not self._box.foreign:
            self._log(f"{what} so it is built from source" + ("." if self._box.why_not else " in a sandbox."))
        self._box.foreign = True

    async def _uv(self, arguments: list[str], doing: str) -> None:
        code, output = await self._run_uv(arguments, self._log)
        self._check(code, output, doing)

    async def _run_uv(self, arguments: list[str], log: LogLine) -> tuple[int, str]:
        argv = [self._box.uv(), *arguments, "--no-python-downloads"]
        code, output = await self._box.run(argv, log, self._held.descriptors)
        return code, lock.readable(output)

    def _check(self, code: int, output: str, doing: str) -> None:
        if code != 0:
            raise lock.failure(output, self._wanted, doing)


def _unheard(_: str) -> None: ...
