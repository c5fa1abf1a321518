"""Code and inputs from this machine to the workspace's storage, once: what is there is found by its hash."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tidemill.cli import hashing, ignore, text
from tidemill.cli.blob import BlobClient, Container, container_of
from tidemill.cli.errors import FAILED, REFUSED, USAGE, CliError
from tidemill.cli.folder import Contents, contents_of
from tidemill.cli.session import Session
from tidemill.cli.urls import segment
from tidemill.domain.units import join_words

CODES_API = "2023-04-01"
DATASTORES_API = "2024-10-01-preview"
DEFAULT_STORE = "workspaceblobstore"
DONE = {"upload_status": "completed"}
_SHOW_AFTER_S = 0.5
_NAMED = 5  # links, in a note
_SMALL = 16  # up to so many files one connection is faster
_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Store:
    """A blob datastore: its name and a signed way into its container."""

    name: str
    container: Container


def open_store(session: Session, name: str = DEFAULT_STORE) -> Store:
    """A datastore of the workspace with its account key. Raises CliError when it is none."""
    base = f"{session.workspace_id()}/datastores/{segment(name)}"
    properties = session.client.get(base, {"api-version": DATASTORES_API})["properties"]
    if properties.get("datastoreType") != "AzureBlob":
        raise CliError(
            f"Datastore {name} is {properties.get('datastoreType')}; only blob datastores are offered yet.",
            REFUSED,
        )
    if session.trial is not None:
        return Store(name, Container("", session.ca_file))
    secrets = session.client.call(
        "POST",
        f"{base}/listSecrets",
        {"expirableSecret": True, "expireAfterHours": 1},
        {"api-version": DATASTORES_API},
    )
    protocol = properties.get("protocol") or "https"
    endpoint = properties.get("endpoint") or "core.windows.net"
    url = f"{protocol}://{properties['accountName']}.blob.{endpoint}/{properties['containerName']}"
    sas = (secrets.get("sasToken") or "").removeprefix("?")
    return Store(name, Container(url, session.ca_file, sas=sas, key=secrets.get("key") or ""))


def upload_code(session: Session, root: Path) -> str:
    """-> the ARM id of a code version with this content; nothing is sent when the workspace has it."""
    found_here = contents_of(root, ignore.load(root) if root.is_dir() else _keep_all)
    if not found_here.files:
        raise CliError(f"The code folder {root} has no files that are not ignored.", USAGE, "EmptyFolder")
    with _readable(root, found_here):
        found_here.stamp()
        digest = hashing.content_hash(found_here.files)
    name = str(uuid.uuid4())
    base = f"{session.workspace_id()}/codes/{name}/versions"
    found = session.client.get(
        base, {"api-version": CODES_API, "hash": digest, "hashVersion": hashing.HASH_VERSION}
    )
    if found.get("value"):
        return found["value"][0]["id"]
    if session.trial is not None:
        return session.trial.code(f"{base}/1", digest, root.name)
    pending = session.client.call(
        "POST",
        f"{base}/1/startPendingUpload",
        {"pendingUploadType": "TemporaryBlobReference"},
        {"api-version": CODES_API},
    )["blobReferenceForConsumption"]
    container = container_of(pending["credential"]["sasUri"], session.ca_file)
    prefix = f"{root.resolve().name}/" if root.is_dir() else ""
    _send(session, container, found_here, prefix, {**DONE, "name": name, "version": "1"}, root)
    code_uri = f"{pending['blobUri'].rstrip('/')}/{quote(prefix.rstrip('/') or root.name)}"
    body = {
        "properties": {
            "codeUri": code_uri,
            "isAnonymous": True,
            "properties": {"hash_sha256": digest, "hash_version": hashing.HASH_VERSION},
        }
    }
    return session.client.call("PUT", f"{base}/1", body, {"api-version": CODES_API})["id"]


def upload_path(session: Session, store: Store, root: Path, kind: str) -> str:
    """-> azureml://datastores/STORE/paths/LocalUpload/{hash}/{name}, with a '/' at the end for a folder."""
    excluded = ignore.load(root) if root.is_dir() else _keep_all
    found = contents_of(root, excluded)
    if not found.files:
        raise CliError(f"The folder {root} has no files that are not ignored.", USAGE, "EmptyFolder")
    with _readable(root, found):
        found.stamp()
        digest = hashing.object_hash(root, excluded)
    ending = "/" if kind in ("uri_folder", "mltable") and root.is_dir() else ""
    uri = f"azureml://datastores/{store.name}/paths/LocalUpload/{digest}/{root.name}{ending}"
    if session.trial is not None:
        below = f"{root.name}/" if root.is_dir() else ""
        place = f"azureml://datastores/{store.name}/paths/LocalUpload/{digest}/"
        session.trial.upload(place, [(path, below + name) for path, name in found.files])
        return uri
    place = f"LocalUpload/{digest}/" + (f"{root.name}/" if root.is_dir() else "")
    confirmation = {**DONE, "name": str(uuid.uuid4()), "version": "1"}
    _send(session, store.container, found, place, confirmation, root)
    return uri


def hash_in(uri: str) -> str:
    """By which `upload_path` named what it sent there."""
    return uri.partition("/paths/LocalUpload/")[2].partition("/")[0]


@contextmanager
def _readable(root: Path, found: Contents) -> Iterator[None]:
    """A file that is gone, or may not be read, is named, with the link that led to it; so is one whose name
    storage cannot have."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise CliError(
            f"{error.object!r} below {root} is not named in UTF-8, as everything in storage is: rename it.",
            FAILED,
            "FileUnreadable",
        ) from None
    except OSError as error:
        if error.filename is None:  # of the connection
            raise
        link = found.link_to(str(error.filename))
        why = f" {root / link} is a link that leads there, out of the folder." if link else ""
        raise CliError(
            f"{error.filename} cannot be read ({error.strerror}), and {root} is uploaded whole or not at all."
            f"{why} {_again(root)}",
            FAILED,
            "FileUnreadable",
        ) from None


def _again(root: Path) -> str:
    ignored = f", or name it in {root}/.amlignore" if root.is_dir() else ""
    return f"Try again once nothing changes it{ignored}."


def _tell_links(session: Session, root: Path, found: Contents) -> None:
    if found.out:
        led = [f"{link} -> {target}" for link, target in found.out.items()]
        session.note(
            f"Note: links lead out of {root}, and what they lead to is uploaded: "
            f"{join_words(led, most=_NAMED)}."
        )
    if found.loops:
        session.note(
            f"Note: links that lead back to a folder they lie in are left out of {root}: "
            f"{join_words(found.loops, most=_NAMED)}."
        )


def _send(
    session: Session,
    container: Container,
    found: Contents,
    prefix: str,
    confirmation: dict[str, str],
    root: Path,
) -> None:
    """Puts the files and, last, marks the first of them: a marked upload is whole, has the files that were
    hashed, and is not sent again."""
    ordered = sorted((path, prefix + name) for path, name in found.files)
    with _readable(root, found), closing(BlobClient(container)) as client:
        metadata = client.metadata(ordered[0][1])
        if metadata is not None and metadata.get("upload_status") == "completed":
            return
        _tell_links(session, root, found)
        total = sum(path.stat().st_size for path, _ in ordered)
        progress = Progress(session, root.name, total, len(ordered))
        if len(ordered) <= _SMALL:
            for path, name in ordered:
                client.put(name, path, progress.add)
                progress.file_done()
        else:
            _send_parallel(container, ordered, progress)
        if changed := found.changed():  # what was sent is not what its hash names
            raise CliError(
                f"{changed} changed while {root} was uploaded, and nothing may run with half of a change. "
                f"{_again(root)}",
                FAILED,
                "FileChanged",
            )
        client.set_metadata(ordered[0][1], confirmation)
        progress.finish()


def _send_parallel(container: Container, ordered: Sequence[tuple[Path, str]], progress: Progress) -> None:
    """What goes wrong with one, or Ctrl-C, ends the others."""
    over = threading.Event()

    def added(count: int) -> None:
        if over.is_set():
            raise _Over
        progress.add(count)

    def send(share: Sequence[tuple[Path, str]]) -> None:
        with closing(BlobClient(container)) as client:
            for path, name in share:
                added(0)
                client.put(name, path, added)
                progress.file_done()

    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            for result in as_completed([pool.submit(send, ordered[at::_WORKERS]) for at in range(_WORKERS)]):
                result.result()
        except BaseException:
            over.set()
            raise


class _Over(Exception):
    """Of an upload that another has ended."""


class Progress:
    """A line on stderr for transfers that last: rewritten on a terminal, else once at the end."""

    def __init__(self, session: Session, name: str, total: int, files: int) -> None:
        self._quiet = session.output != "table"
        self._name, self._total, self._files = name, total, files
        self._sent = self._done = 0
        self._started = self._shown_at = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._open = False

    def add(self, count: int) -> None:
        self._sent += count
        now = time.monotonic()
        if (
            self._terminal
            and not self._quiet
            and now - self._started > _SHOW_AFTER_S
            and now - self._shown_at > 0.1
        ):
            self._shown_at = now
            self._open = True
            share = min(100, 100 * self._sent // max(self._total, 1))
            sys.stderr.write(
                f"\r  {self._name}: {share:3d} %  {text.size(self._sent)} of {text.size(self._total)}, "
                f"{self._done} of {self._files} files\x1b[K"
            )
            sys.stderr.flush()

    def file_done(self) -> None:
        self._done += 1

    def finish(self, verb: str = "uploaded") -> None:
        took = time.monotonic() - self._started
        if self._open:
            sys.stderr.write("\r\x1b[K")
        if not self._quiet and (took > _SHOW_AFTER_S or self._open):
            files = f"{self._files} file{'s' if self._files != 1 else ''}"
            sys.stderr.write(
                f"  {verb} {self._name}: {files}, {text.size(self._total)} in {text.duration(took)}\n"
            )


def _keep_all(_: str) -> bool:
    return False
