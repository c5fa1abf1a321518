"""Hands the batches out, on the node of rank 0: each worker asks for the next, so a slow one holds up nobody.

A result counts once the service has it on disk; what this process is killed with is done again.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import socket
import tempfile
import threading
import time
from typing import Any

from .batches import batches_of, digest_of, names_of
from .board import Board, Failure
from .ledger import MOST_BYTES, Gone, Ledger
from .lines import Lines, word_of
from .spec import Spec

SAY_S = 5.0  # between two lines of progress in the log
MOST_HELD = 64 << 20  # bytes of results that wait for the service; then no more batches are handed out
TELL_S = 1.0  # between two words of progress where no batch was finished


class Coordinator:
    def __init__(self, spec: Spec, ledger: Ledger, token: str) -> None:
        self._spec, self._ledger, self._word = spec, ledger, word_of(token)
        self._batches = batches_of(spec)
        self._digest = digest_of(self._batches)
        self._board = Board.of(len(self._batches), spec)
        self._changed = threading.Condition()
        self._out: list[tuple[int, bytes]] = []  # finished, not stored yet
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as this lives
        self._places: dict[int, tuple[int, int]] = {}  # batch -> (offset, bytes) in _rows
        self._workers = 0
        self._held = 0  # bytes in _out
        self._fatal = ""
        self._over = False
        self._said = 0.0

    def run(self, server: socket.socket) -> int:
        """-> exit code, once every batch is finished and stored, or a threshold is passed."""
        earlier = self._ledger.load(self._digest)
        for record in earlier:
            self._keep(record)
        self._board.restore(earlier)
        self._fatal = self._board.over()
        told = f", {len(earlier)} of them finished before" if earlier else ""
        _say(f"{self._board.total} mini-batches{told}.")
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        try:
            self._store_until_over()
        except Gone as error:
            self._end(f"The job's results could not be stored: {error}")
        return self._finish()

    # ---------------------------------------------------------------- results

    def _store_until_over(self) -> None:
        """One segment at a time: what is finished while it is on its way goes with the next."""
        told_at = 0.0
        self._ledger.store(self._digest, [], self._progress())
        while True:
            with self._changed:
                if not self._out and not self._settled():
                    self._changed.wait(TELL_S)
                some: list[tuple[int, bytes]] = []
                size = 0
                while self._out and (not some or size + len(self._out[0][1]) < MOST_BYTES):
                    some.append(self._out.pop(0))
                    size += len(some[-1][1])
                self._held -= size
                self._changed.notify_all()
                settled, progress = self._settled() and not self._out, self._progress()
            if some or time.monotonic() - told_at >= TELL_S:
                self._ledger.store(self._digest, [record for _, record in some], progress)
                told_at = time.monotonic()
            self._progress_line(progress)
            if settled:
                return

    def _settled(self) -> bool:
        return bool(self._fatal) or self._board.ended

    def _keep(self, record: dict[str, Any]) -> None:
        """The rows of a finished batch, for the file in the end."""
        rows = (record.pop("rows", "") or "").encode("utf-8", "replace")
        offset = self._rows.seek(0, os.SEEK_END)
        self._rows.write(rows)
        self._places[record["i"]] = (offset, len(rows))

    def _finish(self) -> int:
        board = self._board
        with self._changed:
            fatal = self._fatal or board.over()
            self._fatal = self._fatal or fatal or "All batches are finished."
            self._over = True
            self._changed.notify_all()
        failures = "\n".join(_failure_text(failure) for failure in board.failures)
        if fatal:
            _say(f"Failed: {fatal}")
            print(failures or "", flush=True)
            _say(f"Failed: {fatal}{_advice(board)}")
            return 1
        self._write_rows()
        if failures:
            _say(f"Failed mini-batches that the thresholds allow:\n{failures}")
        _say(
            f"Completed: {board.total} mini-batches, {len(board.failed)} of them failed; "
            f"{board.items} items, {board.item_errors} of them without a result."
        )
        return 0

    def _write_rows(self) -> None:
        """In the order of the batches, whoever finished first."""
        if not self._spec.append_to:
            return
        os.makedirs(os.path.dirname(self._spec.append_to), exist_ok=True)
        with open(self._spec.append_to, "wb") as file:
            for index in sorted(self._places):
                offset, size = self._places[index]
                self._rows.seek(offset)
                file.write(self._rows.read(size))

    # ---------------------------------------------------------------- progress

    def _progress(self) -> dict[str, Any]:
        board = self._board
        return {
            "total": board.total,
            "finished": len(board.done) - sum(1 for index, _ in self._out if index in board.done),
            "failed": len(board.failed),
            "items": board.items,
            "item_errors": board.item_errors,
            "workers": self._workers,
        }

    def _progress_line(self, progress: dict[str, Any]) -> None:
        if time.monotonic() - self._said < SAY_S:
            return
        self._said = time.monotonic()
        _say(
            f"{progress['finished']} of {progress['total']} mini-batches finished, "
            f"{progress['failed']} failed; {progress['workers']} workers."
        )

    # ---------------------------------------------------------------- workers

    def _accept(self, server: socket.socket) -> None:
        number = 0
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number += 1
            threading.Thread(target=self._serve, args=(connection, str(number)), daemon=True).start()

    def _serve(self, connection: socket.socket, worker: str) -> None:
        """One worker, from its first word to its end."""
        lines = Lines(connection)
        try:
            hello = lines.read() or {}
        except (OSError, ValueError):
            hello = {}
        if not hmac.compare_digest(str(hello.get("word")), self._word):
            return lines.close()
        with self._changed:
            self._workers += 1
        with contextlib.suppress(OSError, ValueError):  # as one that says nothing any more
            self._talk(lines, worker)
        lines.close()
        with self._changed:
            self._workers -= 1
            lost = self._board.lose(worker)
            self._changed.notify_all()
        if lost and not self._over:
            _say(f"A worker of node {hello.get('node')} is gone: batch {lost[0]} is done again.")

    def _talk(self, lines: Lines, worker: str) -> None:
        while True:
            index = self._next(worker)
            if index is None:
                lines.send({"end": True})
                return
            lines.send({"i": index, "batch": self._batches[index]})
            answer = lines.read()
            if answer is None:
                return
            self._take_in(index, answer)

    def _next(self, worker: str) -> int | None:
        """Waits: what another worker has may come back."""
        with self._changed:
            while not self._fatal and not self._board.ended:
                index = self._board.take(worker) if self._held < MOST_HELD else None
                if index is not None:
                    return index
                self._changed.wait()
            return None

    def _take_in(self, index: int, answer: dict[str, Any]) -> None:
        if answer.get("init"):
            return self._end(
                "{} failed on node {}.\n{}".format("init()", answer.get("node"), answer["error"])
            )
        record = {"i": index, "items": answer["items"], "returned": answer["returned"]}
        error = str(answer.get("error") or "")
        rows = "" if error else str(answer.get("rows") or "")
        encoded = json.dumps({**record, "rows": rows}, ensure_ascii=False).encode("utf-8", "replace")
        if len(encoded) > MOST_BYTES:
            error = (
                f"run() returned {len(encoded)} bytes of rows; a mini-batch may return {MOST_BYTES}. "
                "Write them to an output folder instead, or take smaller mini-batches."
            )
        with self._changed:
            if error:
                names = names_of(self._batches[index])
                _say(f"Batch {index} failed on node {answer.get('node')}: {_last(error)}")
                counts = self._board.fail(index, record["items"], error, names)
                record = {**record, "returned": 0, "error": error[-20000:], "names": names}
                encoded = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
            else:
                counts = self._board.finish(index, record["items"], record["returned"])
                if counts:
                    self._keep({**record, "rows": rows})
            if counts:
                self._out.append((index, encoded))
                self._held += len(encoded)
                self._fatal = self._fatal or self._board.over()
            self._changed.notify_all()

    def _end(self, why: str) -> None:
        with self._changed:
            self._fatal = self._fatal or why
            self._changed.notify_all()


def run(spec: Spec, address: tuple[str, int], ledger: str, token: str) -> int:
    """Raises Refused where the input cannot be cut into batches."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    coordinator = Coordinator(spec, Ledger(ledger, token), token)
    server.bind(address)
    server.listen(1024)
    return coordinator.run(server)


def _failure_text(failure: Failure) -> str:
    tries = f" in each of {failure.tries} tries" if failure.tries > 1 else ""
    items = ", ".join(failure.items)
    return f"Mini-batch {failure.index} ({items}) failed{tries}:\n{failure.error.rstrip()}"


def _advice(board: Board) -> str:
    if not board.failures:
        return ""
    return (
        " Mend run() for such items, leave them out of the input, or allow more failures "
        "(mini_batch_error_threshold, error_threshold)."
    )


def _last(error: str) -> str:
    return error.rstrip().rsplit("\n", 1)[-1]


def _say(text: str) -> None:
    print("{} {}".format(time.strftime("%H:%M:%SZ", time.gmtime()), text), flush=True)
