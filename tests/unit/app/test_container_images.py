"""Images of container groups where the host stands in for images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidemill.app.containers import container_images
from tidemill.domain.errors import InvalidRequest, NotFound


async def test_a_server_without_images_runs_packages_alone(services, scope, owner):
    services = replace(services, settings=replace(services.settings, images="prefer-host"))
    group = replace(scope, workspace="")

    async def plan(image: str):
        return await container_images.plan(services, owner, group, "containerGroups/1", image)

    with pytest.raises(
        InvalidRequest, match=r"host stands in for images.*package://WORKSPACE/NAME"
    ) as caught:
        await plan("registry.example/web:1")
    assert caught.value.code == "ImagesNotUsed"
    with pytest.raises(NotFound, match="Package 'digits:1'"):
        await plan(f"package://{scope.workspace}/digits:1")
