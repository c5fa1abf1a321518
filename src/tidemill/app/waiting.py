"""Waiting for an event for a limited time, without the task that asyncio.wait_for makes each time."""

from __future__ import annotations

import asyncio


async def wait_set(event: asyncio.Event, timeout_s: float | None) -> bool:
    """-> True once the event is set; False when the time has passed first. None: no limit."""
    if event.is_set():
        return True
    if timeout_s is None:
        await event.wait()
        return True
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
