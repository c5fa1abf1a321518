"""Whether an environment's image is used, or the host stands in for it. Pure."""

from __future__ import annotations

import re

from tidemill.environments.images.reference import PACKAGE

USE, PREFER_HOST, REQUIRE = "use", "prefer-host", "require"
MODES = (USE, PREFER_HOST, REQUIRE)
_AZURE_BASE = re.compile(r"^(?:docker://)?mcr\.microsoft\.com/azureml/", re.IGNORECASE)


def host_instead(mode: str, image: str, packages: bool) -> str:
    """Why the host stands in for `image`, in words that go on after "Image X: "; "" where it is used.

    `packages`: the environment lists packages of its own. An image of Azure ML's is then only the base that
    they are put on, and that base the host is, so that Azure's examples run offline and without an account.
    """
    if image.startswith(f"{PACKAGE}://"):  # made here, of what the host has
        return ""
    if mode == PREFER_HOST:
        return "on this server the host stands in for images (images: prefer-host)"
    if mode == USE and packages and _AZURE_BASE.match(image):
        return "the host stands in for base images of Azure ML"
    return ""
