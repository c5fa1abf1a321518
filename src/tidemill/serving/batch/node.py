"""A node: its workers, each a process of its own that is killed when run() takes too long, and restarted."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from . import coordinator
from .lines import Lines, word_of
from .spec import Refused, Spec, read

JOIN_S = 600.0  # the coordinator may still cut its input
INIT_S = 3600.0
SHUTDOWN_S = 60.0
ENDING_S = 5.0


class Worker:
    """The process behind one slot."""

    def __init__(self, main: str, spec_path: str, number: int) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        env = dict(os.environ, TIDEMILL_BATCH_WORKER=str(number))
        self._process = subprocess.Popen(
            [sys.executable, main, spec_path, str(theirs_in), str(theirs_out)],
            pass_fds=(theirs_in, theirs_out),
            env=env,
            stdin=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._held = b""
        self._late = False  # an answer took too long

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """Its answer; None where it died, or `timeout_s` is over: then it is to be dropped."""
        try:
            _write(self._out, json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        except OSError:
            return None
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout_s
        parts = [self._held]
        while b"\n" not in parts[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                self._late = True
                return None
            data = os.read(self._in, 1 << 20)
            if not data:
                return None
            parts.append(data)
        line, _, self._held = b"".join(parts).partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Once it has nothing to do any more: shutdown() may take its time."""
        os.close(self._out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SHUTDOWN_S)
        self._gone()

    def drop(self) -> str:
        """After an answer that did not come. -> how it ended, "" where it had to be ended."""
        os.close(self._out)
        ended = None
        if not self._late:
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # its end of the pipe closes a little earlier
                ended = self._process.wait(ENDING_S)
        self._gone()
        if ended is None:
            return ""
        return f"ended by {signal.Signals(-ended).name}" if ended < 0 else f"exited with code {ended}"

    def _gone(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


class Slot:
    """Takes one batch after the other for one worker."""

    def __init__(self, spec: Spec, spec_path: str, main: str, node: str, number: int) -> None:
        self._spec, self._spec_path, self._main = spec, spec_path, main
        self._node, self._number = node, number
        self._worker: Worker | None = None

    def run(self, address: tuple[str, int], word: str) -> bool:
        """Until there is nothing left: True; False: the coordinator is gone."""
        lines = _join(address)
        if lines is None:
            return False
        try:
            lines.send({"word": word, "node": self._node})
            while True:
                message = lines.read()
                if message is None:
                    return False
                if message.get("end"):
                    return True
                lines.send({**self._score(message), "node": self._node})
        except OSError:
            return False
        finally:
            if self._worker is not None:
                self._worker.end()

    def _score(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None:
            self._worker = Worker(self._main, self._spec_path, self._number)
            ready = self._worker.answer(INIT_S)
            if ready is None or ready.get("error"):
                how = self._drop()
                text = ready["error"] if ready else "Its process %s." % (how or "took longer than an hour")
                return {"init": True, "error": text}
        answer = self._worker.ask(message, self._spec.timeout_s)
        if answer is not None:
            return answer
        how = self._drop()
        items = len(message["batch"].get("files") or ()) or 1
        if not how:
            text = (
                f"run() took longer than retry_settings.timeout, {self._spec.timeout_s:g} s, and was ended."
            )
        else:
            text = f"The worker's process {how} in run()."
        return {"items": items, "returned": 0, "error": text}

    def stop(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.kill()

    def _drop(self) -> str:
        worker, self._worker = self._worker, None
        return worker.drop() if worker is not None else ""


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """One node of a job: `environ` says which, and where rank 0 is."""
    spec_path = arguments[0]
    rank = int(environ.get("TIDEMILL_BATCH_RANK", "0"))
    host, _, port = environ["TIDEMILL_BATCH_ADDRESS"].rpartition(":")
    token = environ.get("AZUREML_RUN_TOKEN", "")
    try:
        spec = read(spec_path)
        return _run(spec, spec_path, rank, (host, int(port)), environ.get("TIDEMILL_BATCH_LEDGER", ""), token)
    except Refused as error:
        print(f"Failed: {error}", flush=True)
        return 1


def _run(spec: Spec, path: str, rank: int, address: tuple[str, int], ledger: str, token: str) -> int:
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "main.py")
    word = word_of(token)
    ends: list[bool] = []
    slots = [Slot(spec, path, program, str(rank), number) for number in range(spec.concurrency)]
    threads = [
        threading.Thread(target=lambda slot=slot: ends.append(slot.run(address, word)), daemon=True)
        for slot in slots
    ]
    for thread in threads:
        thread.start()
    code = coordinator.run(spec, address, ledger, token) if rank == 0 else 0
    if code:
        for slot in slots:
            slot.stop()  # a batch that runs for nothing is not waited for
    for thread in threads:
        thread.join(SHUTDOWN_S + 10 if rank == 0 else None)
    return code if rank == 0 or all(ends) else 1


def _join(address: tuple[str, int]) -> Lines | None:
    deadline = time.monotonic() + JOIN_S
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection(address, timeout=10)
        except OSError:
            time.sleep(0.05)
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Lines(connection)
    return None


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
