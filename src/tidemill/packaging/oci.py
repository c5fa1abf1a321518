"""An image's documents and the folder that holds them: configuration, manifest, index, layout.

https://github.com/opencontainers/image-spec/blob/v1.1.0/ (config.md, manifest.md, image-index.md,
image-layout.md). The same image is the same bytes: no time, sorted names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.packaging.layers import Layer

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
BLOBS = "blobs/sha256"
CREATED = "1970-01-01T00:00:00Z"  # an image is what is in it, whenever it was made


@dataclass(frozen=True, slots=True)
class Image:
    """`config`: what the configuration says under `config`. `history`: of layers that have some already; the
    others say what they are `about`."""

    architecture: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    history: tuple[Mapping[str, Any], ...] = ()


def configuration(image: Image) -> bytes:
    told = len([one for one in image.history if not one.get("empty_layer")])
    own = [{"created": CREATED, "created_by": layer.about} for layer in image.layers[told:]]
    return _encode(
        {
            "created": CREATED,
            "architecture": image.architecture,
            "os": "linux",
            "config": dict(image.config),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
            "history": [*map(dict, image.history), *own],
        }
    )


def manifest(image: Image, config: bytes) -> bytes:
    return _encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [
                {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
                for layer in image.layers
            ],
            "annotations": dict(image.annotations),
        }
    )


def write(image: Image, layout: str, reference: str) -> str:
    """Makes the folder `layout`, whose layers are in place, a layout of this one image -> its digest. Raises
    OSError."""
    config = configuration(image)
    raw = manifest(image, config)
    for blob in (config, raw):
        _put(os.path.join(layout, BLOBS, digest_of(blob).removeprefix("sha256:")), blob)
    entry = {
        **_descriptor(MANIFEST, raw),
        "platform": {"architecture": image.architecture, "os": "linux"},
        "annotations": {REF_NAME: reference},
    }
    _put(os.path.join(layout, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    _put(os.path.join(layout, "index.json"), _encode(index))
    return digest_of(raw)


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _descriptor(kind: str, raw: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(raw), "size": len(raw)}


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _put(path: str, raw: bytes) -> None:
    with open(path, "wb") as file:
        file.write(raw)
