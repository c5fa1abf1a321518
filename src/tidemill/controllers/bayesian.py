"""Asks the process of `controllers.tpe`, started when the first question comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from dataclasses import asdict

from tidemill.domain.sweeps.sampling import Ask
from tidemill.domain.sweeps.space import Point

ANSWER_S = 60.0


class SamplerFailed(RuntimeError):
    """The sampler gave no answer; the text says why."""


class Bayesian:
    def __init__(self, python: str = sys.executable) -> None:
        self._argv = (python, "-m", "tidemill.controllers.tpe")
        self._process: subprocess.Popen[bytes] | None = None
        self._one = asyncio.Lock()

    async def next(self, ask: Ask) -> Point:
        """Raises SamplerFailed."""
        question = json.dumps(asdict(ask)).encode() + b"\n"
        async with self._one:
            try:
                async with asyncio.timeout(ANSWER_S):
                    line = await asyncio.to_thread(self._exchange, question)
            except TimeoutError:
                self.close()
                raise SamplerFailed(f"no answer within {ANSWER_S:g} s") from None
            except asyncio.CancelledError:  # its next line would be the answer to this question
                self.close()
                raise
        answer = json.loads(line or b'{"error": "its process ended"}')
        if "error" in answer:
            raise SamplerFailed(answer["error"])
        return tuple(float(at) for at in answer["point"])

    def _exchange(self, question: bytes) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(question)
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return b""

    def close(self) -> None:
        """Ends the process; a later question starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not read by it
                    pipe.close()
