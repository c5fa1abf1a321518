from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import World, make


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make(tmp_path)
    yield made
    await made.stop()
    await made.services.tracking.close()
    made.services.blobs.close()
