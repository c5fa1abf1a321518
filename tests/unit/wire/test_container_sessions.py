"""How a session in a container that a password opened comes to its end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tidemill.app.container_lines import Line
from tidemill.wire.azure import container_groups


class Inside:
    """A process that reads nothing, and ends once somebody has typed `typed` times in vain."""

    def __init__(self, exit_code: int | None, typed: int) -> None:
        self._exit_code, self._left = exit_code, typed
        self._over = asyncio.Event()

    async def started(self) -> None: ...

    async def read(self, stream: int) -> bytes:
        await self._over.wait()
        return b""

    async def write(self, data: bytes) -> None:
        self._left -= 1
        if not self._left:
            self._over.set()
        raise BrokenPipeError

    async def wait(self) -> int | None:
        return self._exit_code

    def close(self) -> None: ...


class Talk:
    def __init__(self, messages: Sequence[str]) -> None:
        self._messages = list(messages)
        self.closed = False

    async def receive(self) -> str:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("exit_code", "told"), [(3, "exit code 3"), (None, "the container ended")])
async def test_what_is_typed_in_vain_hides_no_end(
    monkeypatch: pytest.MonkeyPatch, exit_code: int | None, told: str
) -> None:
    async def entered(*_: object) -> Inside:
        return Inside(exit_code, typed=2)

    monkeypatch.setattr(container_groups, "entered", entered)
    digest = hashlib.sha256(b"open").digest()
    line: Any = Line(cast(Any, None), cast(Any, None), cast(Any, None), "web", "a", (), (24, 80), digest, 0)
    talk, target = Talk(["open", "x", "y"]), cast(Any, type("Target", (), {"node_id": "n", "task": None}))
    async with asyncio.timeout(60):
        why = await container_groups._hold(cast(Any, talk), line, target)  # pyright: ignore[reportPrivateUsage]
    assert why == told
    assert talk.closed
