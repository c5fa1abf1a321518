"""How bytes become a blob: fsync the file, commit the row, unlink what it replaced."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from typing import TypeVar

from tidemill.data import blobrows as rows
from tidemill.data.blobfiles import GenerationFiles, Upload
from tidemill.data.blobindex import BlobIndex
from tidemill.data.blobmodel import BlobInfo, BlobProperties, Check
from tidemill.domain.errors import NotFound

T = TypeVar("T")


class Committer:
    """`index` and `files` of one store, and the order in which they change."""

    def __init__(self, index: BlobIndex, files: GenerationFiles, now: Callable[[], int]) -> None:
        self.index = index
        self.files = files
        self.now = now

    def publish(self, uploads: list[Upload], apply: Callable[[sqlite3.Connection], tuple[T, list[str]]]) -> T:
        """`apply` writes the rows and gives (result, generations to unlink). Closes the uploads; on an error
        their files are gone."""
        try:
            for upload in uploads:
                upload.sync()
            directories = tuple({upload.directory for upload in uploads})
            result, gone = self.index.write(apply, directories)
        except BaseException:
            self._discard(uploads)
            raise
        for upload in uploads:
            upload.close()
        self.files.remove(gone)
        return result

    def replace(
        self,
        db: sqlite3.Connection,
        upload: Upload,
        key: tuple[str, str, str],
        properties: BlobProperties,
        kind: str = "BlockBlob",
        check: Check | None = None,
    ) -> tuple[BlobInfo, list[str]]:
        """Inside a transaction: the upload becomes blob `key`. -> (blob, generations to unlink)."""
        account, container, name = key
        rows.need_container(db, account, container)
        old = rows.find_blob(db, *key)
        if check is not None:
            check(old)
        gone = rows.drop_blocks(db, *key)
        if old is None:
            rows.refuse_file_beside_folder(db, *key)
        else:
            rows.drop_generation(db, old.generation)
            gone.append(old.generation)
        now = self.now()
        info = BlobInfo(
            account=account,
            container=container,
            name=name,
            size=upload.size,
            etag=self.new_etag(),
            generation=upload.generation,
            created_at=old.created_at if old else now,
            modified_at=now,
            md5=properties.md5 or upload.md5,
            content_type=properties.content_type,
            metadata=properties.metadata,
            headers=properties.headers,
            kind=kind,
        )
        rows.save_blob(db, info)
        return info, gone

    def new_etag(self) -> str:
        return f"0x{self.now():014X}{os.urandom(2).hex().upper()}"

    def _discard(self, uploads: Iterable[Upload]) -> None:
        """A commit that failed may be on disk all the same (its fsync failed after the write): a file that a
        row names stays."""
        for upload in uploads:
            if rows.is_used(self.index.read(), upload.generation):
                upload.close()
            else:
                upload.discard()


def new_generation(now: int) -> str:
    """23 hex digits: milliseconds, then chance."""
    return f"{now // 1000:011x}{os.urandom(6).hex()}"


def need_blob(db: sqlite3.Connection, key: tuple[str, str, str]) -> BlobInfo:
    """Raises NotFound(ContainerNotFound | BlobNotFound)."""
    rows.need_container(db, *key[:2])
    info = rows.find_blob(db, *key)
    if info is None:
        raise no_blob(key)
    return info


def no_blob(key: tuple[str, str, str]) -> NotFound:
    return NotFound(f"Container {key[1]!r} has no blob {key[2]!r}.", "BlobNotFound")
