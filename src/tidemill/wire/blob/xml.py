"""XML of the blob service, in and out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import quote
from xml.etree import ElementTree

from tidemill.data.blobmodel import BlobInfo, Block, BlockRef, ContainerInfo, ListPage
from tidemill.wire.blob.errors import StorageError, invalid_query
from tidemill.wire.blob.headers import http_date, md5_text, quoted

HEAD = '<?xml version="1.0" encoding="utf-8"?>'
MAX_BLOCKS = 50_000
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LISTED = {  # stored header -> element of a listing
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "x-ms-copy-id": "CopyId",
    "x-ms-copy-status": "CopyStatus",
    "x-ms-copy-source": "CopySource",
    "x-ms-copy-progress": "CopyProgress",
    "x-ms-copy-completion-time": "CopyCompletionTime",
}
_SOURCES = ("Committed", "Uncommitted", "Latest")


def escape(text: str) -> str:
    """Characters that XML cannot hold become U+FFFD."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return _NOT_XML.sub("\ufffd", text).replace("\r", "&#13;")


def element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def error(code: str, message: str, more: dict[str, str]) -> bytes:
    further = "".join(element(name, text) for name, text in more.items())
    return f"{HEAD}<Error>{element('Code', code)}{element('Message', message)}{further}</Error>".encode()


def blob_list(
    endpoint: str, container: str, asked: dict[str, str], page: ListPage, *, metadata: bool, copies: bool
) -> bytes:
    """`asked`: the listing's own parameters, given back as they came."""
    entries = [(info.name, _blob(info, metadata, copies)) for info in page.blobs]
    entries += [(prefix, f"<BlobPrefix>{_name(prefix)}</BlobPrefix>") for prefix in page.prefixes]
    entries.sort(key=lambda entry: entry[0])
    attributes = f'ServiceEndpoint="{escape(endpoint)}" ContainerName="{escape(container)}"'
    echoed = "".join(element(name, value) for name, value in asked.items() if value)
    return (
        f"{HEAD}<EnumerationResults {attributes}>{echoed}"
        f"<Blobs>{''.join(text for _, text in entries)}</Blobs>"
        f"{element('NextMarker', encode_marker(page.next_marker))}</EnumerationResults>"
    ).encode()


def container_list(
    endpoint: str, asked: dict[str, str], found: Iterable[ContainerInfo], next_marker: str, *, metadata: bool
) -> bytes:
    echoed = "".join(element(name, value) for name, value in asked.items() if value)
    return (
        f'{HEAD}<EnumerationResults ServiceEndpoint="{escape(endpoint)}">{echoed}'
        f"<Containers>{''.join(_container(info, metadata) for info in found)}</Containers>"
        f"{element('NextMarker', encode_marker(next_marker))}</EnumerationResults>"
    ).encode()


def block_list(committed: list[Block] | None, uncommitted: list[Block] | None) -> bytes:
    """None: that half was not asked for."""
    parts = [
        f"<{name}>{''.join(_block(block) for block in blocks)}</{name}>"
        for name, blocks in (("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted))
        if blocks is not None
    ]
    return f"{HEAD}<BlockList>{''.join(parts)}</BlockList>".encode()


def parse_block_list(body: bytes) -> list[BlockRef]:
    """Raises InvalidXmlDocument, BlockListTooLong."""
    if b"<!" in body:
        raise _bad_xml("declarations and comments are not read")
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as failure:
        raise _bad_xml(str(failure)) from failure
    if root.tag != "BlockList":
        raise _bad_xml(f"the root is {root.tag!r}, not 'BlockList'")
    refs = [BlockRef((child.text or "").strip(), child.tag) for child in root]
    for ref in refs:
        if ref.source not in _SOURCES:
            raise _bad_xml(f"{ref.source!r} is none of {', '.join(_SOURCES)}")
    if len(refs) > MAX_BLOCKS:
        raise StorageError("BlockListTooLong", f"The block list has more than {MAX_BLOCKS} blocks.")
    return refs


def encode_marker(marker: str) -> str:
    return base64.urlsafe_b64encode(marker.encode()).decode()


def decode_marker(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text.encode()).decode()
    except (binascii.Error, ValueError) as failure:
        raise invalid_query("marker", text, "use the NextMarker of the page before") from failure


def _name(name: str) -> str:
    if _NOT_XML.search(name) or "\r" in name:
        return f'<Name Encoded="true">{quote(name)}</Name>'
    return element("Name", name)


def _blob(info: BlobInfo, metadata: bool, copies: bool) -> str:
    properties = [
        element("Creation-Time", http_date(info.created_at)),
        element("Last-Modified", http_date(info.modified_at)),
        element("Etag", info.etag),
        element("Content-Length", str(info.size)),
        element("Content-Type", info.content_type),
        element("Content-MD5", md5_text(info.md5) if info.md5 else ""),
    ]
    for header, name in _LISTED.items():
        if header in info.headers and (copies or not name.startswith("Copy")):
            properties.append(element(name, info.headers[header]))
    properties.append(
        f"<BlobType>{info.kind}</BlobType><LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
        "<ServerEncrypted>false</ServerEncrypted>"
    )
    shown = _metadata(info.metadata) if metadata else ""
    return f"<Blob>{_name(info.name)}<Properties>{''.join(properties)}</Properties>{shown}</Blob>"


def _container(info: ContainerInfo, metadata: bool) -> str:
    shown = _metadata(info.metadata) if metadata else ""
    return (
        f"<Container>{element('Name', info.name)}<Properties>"
        f"{element('Last-Modified', http_date(info.modified_at))}{element('Etag', quoted(info.etag))}"
        "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
        f"<HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold></Properties>{shown}"
        "</Container>"
    )


def _metadata(values: dict[str, str]) -> str:
    return f"<Metadata>{''.join(element(name, value) for name, value in values.items())}</Metadata>"


def _block(block: Block) -> str:
    return f"<Block>{element('Name', block.id)}<Size>{block.size}</Size></Block>"


def _bad_xml(reason: str) -> StorageError:
    return StorageError("InvalidXmlDocument", f"The block list is not valid XML for this request: {reason}.")
